"""The command line: space, search, resume, export, evaluate, predict, compare."""

import argparse
import importlib.metadata
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from nas.common.errors import ArgumentError, NasError
from nas.common.fast_imports import import_frameworks
from nas.common.interrupt import Interrupted
from nas.config.readers import READERS
from nas.config.schema import COLUMNS
from nas.run.arguments import parse_budgets, parse_memory_budget, parse_pick, seed_count, worker_count
from nas.run.program import program_call
from nas.search.strategies.registry import STRATEGIES

if TYPE_CHECKING:
    from nas.run.commands import Overrides
    from nas.run.executors import ExecutionOptions

Command = Callable[[argparse.Namespace], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The words of the command line; None for those of this process.

    Returns:
        The exit status: 0, 1 if the reader of standard output has gone, 2 for a user error, 130 after Ctrl-C.
    """
    # Threads that wait for others sleep instead of spinning: workers and driver share the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    options = build_parser().parse_args(arguments)
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


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog=program_call().split()[-1],
        description="Search for the best prompt-based multimodal fusion (PMF) model for images, texts and labels.",
    )
    version = importlib.metadata.version("pmf-nas")
    parser.add_argument("--version", action="version", version=f"pmf-nas {version}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in (_add_space, _add_search, _add_resume, _add_export, _add_evaluate, _add_predict, _add_compare):
        add(commands)
    return parser


_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _add_command(commands: _Commands, name: str, summary: str, example: str, run: Command) -> argparse.ArgumentParser:
    """Add a command with its help text and an example."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=f"example:\n  {program_call()} {name} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=run)
    return parser


def _add_space(commands: _Commands) -> None:
    parser = _add_command(
        commands,
        "space",
        "Show the search space of a search file, and the part of it that fits the memory budget.",
        "search_spaces/demo.yaml --memory-budget 560MiB",
        _space,
    )
    _add_search_file(parser)
    _add_memory_budget(parser)


def _add_search(commands: _Commands) -> None:
    parser = _add_command(
        commands,
        "search",
        "Search within a budget, and export the best model.",
        "search_spaces/demo.yaml --budget 4m --memory-budget 3GiB --run-dir runs/demo",
        _search,
    )
    _add_search_file(parser)
    parser.add_argument("--strategy", choices=STRATEGIES.names(), help="search strategy (default: that of the file)")
    parser.add_argument("--seed", type=int, help="seed of the search (default: that of the file)")
    parser.add_argument(
        "--deterministic",
        action="store_true",
        default=None,
        help="same trials and values for any number of workers: ignores timings and measured memory, and needs a "
        "budget in trials",
    )
    parser.add_argument(
        "--warm-start", type=Path, metavar="RUN_DIR", help="screen the best architectures of this earlier run first"
    )
    parser.add_argument("--run-dir", type=Path, help="directory of the run (default: runs/NAME-SEED)")
    _add_budget(parser)
    _add_execution(parser)


def _add_resume(commands: _Commands) -> None:
    parser = _add_command(
        commands, "resume", "Resume a run; finished results are never lost.", "runs/demo --budget 10m", _resume
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="directory of the run")
    _add_budget(parser)
    _add_execution(parser)


def _add_export(commands: _Commands) -> None:
    parser = _add_command(
        commands,
        "export",
        "Export a completely trained candidate of a run as a model folder.",
        "runs/demo --output my_model",
        _export,
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="directory of the run")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--storage", metavar="URL", help="database of the study (default: the recorded one)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--trial", type=int, metavar="N", help="number of the candidate")
    which.add_argument(
        "--pick",
        nargs="+",
        default=["best"],
        metavar="RULE",
        help="rule that picks a completely trained candidate: best (highest metric; default), knee (best compromise of "
        "all objectives), or smallest-within X (fewest parameters with a metric at most X below the best)",
    )


def _add_evaluate(commands: _Commands) -> None:
    parser = _add_command(
        commands,
        "evaluate",
        "Evaluate an exported model on a data set.",
        "runs/demo/best --data demo/data/manifest.csv --images demo/data/images.zip",
        _evaluate,
    )
    parser.add_argument("model", type=Path, metavar="DIR", help="folder of the exported model")
    parser.add_argument("--data", type=Path, required=True, metavar="PATH", help="manifest or folder of the data set")
    parser.add_argument(
        "--reader", choices=READERS.names(), help="reader of the data set (default: that of the training data)"
    )
    parser.add_argument("--images", type=Path, help="folder or ZIP file of the images (default: beside the manifest)")
    parser.add_argument(
        "--split", choices=("train", "validation", "test"), default="test", help="split to evaluate (default: test)"
    )
    for column in COLUMNS:
        parser.add_argument(f"--{column}-column", metavar="NAME", help=argparse.SUPPRESS)


def _add_predict(commands: _Commands) -> None:
    parser = _add_command(
        commands,
        "predict",
        "Classify one image with its text.",
        'runs/demo/best --image apple.png --text "red apple"',
        _predict,
    )
    parser.add_argument("model", type=Path, metavar="DIR", help="folder of the exported model")
    parser.add_argument("--image", type=Path, required=True, metavar="FILE", help="image file")
    parser.add_argument("--text", required=True, help="text of the image")
    parser.add_argument(
        "--top",
        type=int,
        default=5,
        metavar="K",
        help="number of classes to show (default: 5); predicted labels are always shown where there may be several",
    )


def _add_compare(commands: _Commands) -> None:
    parser = _add_command(
        commands,
        "compare",
        "Train every fusion family with one recipe, search PMF, and write a table of all of them.",
        "search_spaces/demo.yaml --seeds 3 --budget 4m --run-dir runs/comparison",
        _compare,
    )
    _add_search_file(parser)
    parser.add_argument(
        "--families", nargs="+", metavar="NAME", help="entries of the table (default: all families and searched PMF)"
    )
    parser.add_argument(
        "--seeds", type=seed_count, default=3, metavar="N", help="number of seeds of each entry (default: 3)"
    )
    parser.add_argument("--run-dir", type=Path, help="directory of the comparison (default: runs/NAME-comparison)")
    _add_budget(parser)
    _add_execution(parser)


def _add_search_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "space", type=Path, metavar="SPACE.yaml", help="search file: data, encoders, search space, recipe, budget"
    )


def _add_budget(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--budget",
        action="append",
        metavar="BUDGET",
        help="time (4m, 2h) or number of trials (200), both over all sessions; may be given twice, once for each "
        "(default: that of the file)",
    )
    _add_memory_budget(parser)


def _add_memory_budget(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--memory-budget",
        metavar="BYTES",
        help="memory of all workers of a device together, for instance 3GiB (default: that of the file)",
    )


def _add_execution(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers",
        type=worker_count,
        default=None,
        metavar="N",
        help="number of Ray workers, or auto (default) for as many as cores, GPUs and memory allow; 0 runs everything "
        "in this process",
    )
    parser.add_argument("--ray-address", metavar="ADDRESS", help="Ray cluster to join (default: a private Ray)")
    parser.add_argument(
        "--storage",
        metavar="URL",
        help="database for the study: sqlite:///... or postgresql://... (default: a journal in the run directory)",
    )
    parser.add_argument(
        "--cache-dir", type=Path, help="directory of cached encoder outputs (default: in the user's cache)"
    )


def _overrides(options: argparse.Namespace) -> "Overrides":
    """Return the values that replace those of the file; everything that takes long is imported after their checks."""
    time_seconds, trials = parse_budgets(getattr(options, "budget", None) or ())
    memory_bytes = parse_memory_budget(options.memory_budget)

    import_frameworks()  # before any other import that takes seconds
    from nas.run.commands import Overrides

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
    from nas.run.commands import start

    if options.run_dir is None:
        config = overrides.apply(load_config(options.space))
        options.run_dir = Path("runs") / f"{config.name}-{config.seed}"
    with build_reporter() as reporter:
        start(options.space, options.run_dir, overrides, _execution(options), reporter)


def _resume(options: argparse.Namespace) -> None:
    overrides = _overrides(options)
    from nas.common.progress import build_reporter
    from nas.run.commands import resume

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
    from nas.run.wording import metric_line

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
