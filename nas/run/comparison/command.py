"""The command `compare`."""

import argparse
from pathlib import Path

from nas.common.errors import ArgumentError
from nas.common.progress import build_reporter
from nas.config.overrides import Overrides
from nas.config.schema import Config
from nas.run.comparison.compare import compare
from nas.run.comparison.entries import entry_names
from nas.run.comparison.protocol import Protocol
from nas.run.executors import ExecutionOptions


def compare_families(
    options: argparse.Namespace, config: Config, overrides: Overrides, execution: ExecutionOptions
) -> None:
    """Compare the families that a command names.

    Args:
        options: The options of the command; its directory is set where it is not given.
        config: The configuration of the search file.
        overrides: The values that replace those of the file.
        execution: The workers and the cluster.

    Raises:
        NasError: If a family is unknown, or they cannot be compared.
        Interrupted: If the user has interrupted the comparison.
    """
    known = entry_names()
    names = options.families or known
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ArgumentError(f"--families {' '.join(unknown)}: expected any of {', '.join(known)}")
    if options.run_dir is None:
        options.run_dir = Path("runs") / f"{config.name}-{options.protocol or 'comparison'}"
    with build_reporter() as reporter:
        compare(
            options.space,
            options.run_dir,
            names=None if options.families is None else [name for name in known if name in names],
            seeds=options.seeds,
            overrides=overrides,
            options=execution,
            reporter=reporter,
            protocol=Protocol(is_base_to_novel=options.protocol is not None, note=options.note),
        )
