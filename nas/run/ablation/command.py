"""The command `ablate`."""

import argparse
from pathlib import Path

from nas.common.progress import build_reporter
from nas.config.overrides import Overrides
from nas.config.schema import Config
from nas.run.ablation.ablate import AblationOrder, ablate
from nas.run.ablation.rows import GeneRequest
from nas.run.executors import ExecutionOptions


def ablate_architecture(
    options: argparse.Namespace,
    config: Config,
    limit: tuple[float | None, int | None],
    overrides: Overrides,
    execution: ExecutionOptions,
) -> None:
    """Vary the genes that a command names.

    Args:
        options: The options of the command; its directory is set where it is not given.
        config: The configuration of the search file.
        limit: The seconds of this session, and the number of trainings of all sessions; None where there is no limit.
        overrides: The values that replace those of the file.
        execution: The workers and the cluster.

    Raises:
        NasError: If a gene is unknown, or the variants cannot be trained.
        Interrupted: If the user has interrupted the ablation.
    """
    if options.run_dir is None:
        options.run_dir = Path("runs") / f"{config.name}-ablation"
    order = AblationOrder(
        genes=[GeneRequest.parse(text) for text in options.gene],
        architecture=options.architecture,
        seeds=options.seeds,
        evaluates_test=options.test,
        time_seconds=limit[0],
        trainings=limit[1],
    )
    with build_reporter() as reporter:
        ablate(options.space, options.run_dir, order, overrides=overrides, options=execution, reporter=reporter)
