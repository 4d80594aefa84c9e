"""The command line: space, search, resume, export, evaluate, predict, compare."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nas.common.errors import ArgumentError, NasError
from nas.common.fast_imports import import_frameworks
from nas.common.interrupt import Interrupted
from nas.config.choices import COLUMNS
from nas.run.arguments import parse_budgets, parse_memory_budget, parse_pick
from nas.run.parser import Command, build_parser
from nas.run.program_name import program_call

if TYPE_CHECKING:
    from nas.config.overrides import Overrides
    from nas.run.executors import ExecutionOptions


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The words of the command line; None for those of this process.

    Returns:
        The exit status: 0, 1 if the reader of standard output has gone, 2 for a user error, 130 after Ctrl-C.
    """
    # Threads that wait for others sleep instead of spinning: workers and driver share the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    options = build_parser(_HANDLERS).parse_args(arguments)
    command: Command = options.command
    try:
        command(options)
    except NasError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that closing it does not fail as well
        return 1
    except OSError as error:
        place = error.filename if error.filename is not None else "a file"
        print(f"error: {place}: {error.strerror or error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, Interrupted):
        print(f"Interrupted; everything finished is saved{_resume_hint(options)}", file=sys.stderr)
        return 130
    return 0


def _resume_hint(options: argparse.Namespace) -> str:
    """Return how an interrupted command is resumed; empty where it has saved nothing."""
    if options.command is _compare:
        return ". Resume with the same command"
    directory = getattr(options, "run_dir", None)
    if directory is None or not (directory / "config.yaml").exists():
        return ""
    return f". Resume with: {program_call()} resume {directory}"


def _overrides(options: argparse.Namespace) -> "Overrides":
    """Return the values that replace those of the file; slow imports follow after their checks."""
    time_seconds, trials = parse_budgets(getattr(options, "budget", None) or ())
    memory_bytes = parse_memory_budget(options.memory_budget)

    import_frameworks()  # before any other import that takes seconds
    from nas.config.overrides import Overrides

    return Overrides(
        time_seconds=time_seconds,
        trials=trials,
        memory_bytes=memory_bytes,
        strategy=getattr(options, "strategy", None),
        seed=getattr(options, "seed", None),
        deterministic=getattr(options, "deterministic", None),
        warm_start=getattr(options, "warm_start", None),
    )


def _execution(options: argparse.Namespace) -> "ExecutionOptions":
    from nas.run.executors import ExecutionOptions

    return ExecutionOptions(
        worker_count=options.workers,
        cache_directory=options.cache_dir,
        ray_address=options.ray_address,
        storage=options.storage,
    )


def _space(options: argparse.Namespace) -> None:
    overrides = _overrides(options)
    from nas.common.progress import build_reporter
    from nas.config.load import load_config
    from nas.run.prepare import predict_memory
    from nas.run.space_summary import describe_space

    config = overrides.apply(load_config(options.space))
    with build_reporter() as reporter:
        memory, default = predict_memory(config, source=str(options.space))
        describe_space(config, memory, default, reporter)


def _search(options: argparse.Namespace) -> None:
    overrides = _overrides(options)
    from nas.common.progress import build_reporter
    from nas.config.load import load_config
    from nas.run.search import start

    if options.run_dir is None:
        config = overrides.apply(load_config(options.space))
        options.run_dir = Path("runs") / f"{config.name}-{config.seed}"
    with build_reporter() as reporter:
        start(options.space, options.run_dir, overrides, _execution(options), reporter)


def _resume(options: argparse.Namespace) -> None:
    overrides = _overrides(options)
    from nas.common.progress import build_reporter
    from nas.run.search import resume

    with build_reporter() as reporter:
        resume(options.run_dir, overrides, _execution(options), reporter)


def _export(options: argparse.Namespace) -> None:
    how = parse_pick(options.pick)
    import_frameworks()
    from nas.run.export_run import export_run

    result = export_run(options.run_dir, options.output, trial=options.trial, how=how, storage=options.storage)
    print(f"Exported model: {options.output} (trial {result.trial}, {result.architecture})")


def _compare(options: argparse.Namespace) -> None:
    overrides = _overrides(options)
    from nas.common.progress import build_reporter
    from nas.config.load import load_config
    from nas.run.comparison.compare import compare
    from nas.run.comparison.entries import entry_names

    known = entry_names()
    names = options.families or known
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ArgumentError(f"--families {' '.join(unknown)}: expected any of {', '.join(known)}")
    if options.run_dir is None:
        options.run_dir = Path("runs") / f"{load_config(options.space).name}-comparison"
    with build_reporter() as reporter:
        compare(
            options.space,
            options.run_dir,
            names=[name for name in known if name in names],
            seeds=options.seeds,
            overrides=overrides,
            options=_execution(options),
            reporter=reporter,
        )


def _evaluate(options: argparse.Namespace) -> None:
    import_frameworks()
    from nas.run.evaluate import evaluate_exported
    from nas.run.evaluation_data import evaluation_data
    from nas.run.progress_lines import metric_line

    columns = {name: value for name in COLUMNS if (value := getattr(options, f"{name}_column")) is not None}
    data = evaluation_data(options.model, options.data, reader=options.reader, images=options.images, columns=columns)
    metrics, count = evaluate_exported(options.model, data, options.split)
    for name, value in metrics.items():
        print(metric_line(name, value, count))


def _predict(options: argparse.Namespace) -> None:
    import_frameworks()
    from nas.run.predict import classify

    for prediction in classify(options.model, options.image, options.text, options.top):
        print(f"{prediction.class_name}: {prediction.probability:.4f}{' yes' if prediction.is_predicted else ''}")


_HANDLERS: Mapping[str, Command] = {
    "space": _space,
    "search": _search,
    "resume": _resume,
    "export": _export,
    "evaluate": _evaluate,
    "predict": _predict,
    "compare": _compare,
}
