"""The command line: space, search, resume, export, evaluate, predict, compare."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nas.common.errors import ArgumentError, BudgetError, DataError, NasError
from nas.common.fast_imports import import_frameworks
from nas.common.interrupt import Interrupted
from nas.common.units import parse_bytes
from nas.config.load import parse_data
from nas.config.readers import READERS
from nas.config.schema import COLUMNS
from nas.run.time_budget import parse_budget
from nas.search.strategies.registry import STRATEGIES

if TYPE_CHECKING:
    from nas.run.commands import Overrides
    from nas.run.executors import ExecutionOptions
    from nas.search.objectives import Pick

PROGRAM = "run_search.py"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 2 for an error of the user's, 130 after Ctrl-C."""
    # Threads that wait for others sleep instead of spinning: workers and driver share the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    parser = _parser()
    options = parser.parse_args(arguments)
    run: Callable[[argparse.Namespace], None] = options.run
    try:
        run(options)
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
        directory = getattr(options, "run_dir", None)
        can_resume = directory is not None and (directory / "config.yaml").exists()
        hint = f"; go on with: python {PROGRAM} resume {directory}" if can_resume else ""
        if run is _compare:
            hint = "; go on with the same command"
        print(f"interrupted; everything finished is saved{hint}", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Search the best prompt-based multimodal fusion (PMF) model for your images, texts and labels.",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(
        name: str, summary: str, example: str, run: Callable[[argparse.Namespace], None]
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=f"example:\n  python {PROGRAM} {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=run)
        return sub

    space = command(
        "space",
        "Show what a search file searches, and how much of it fits the memory budget.",
        "space search_spaces/demo.yaml --memory-budget 560MiB",
        _space,
    )
    _add_space(space)
    _add_memory_budget(space)

    search = command(
        "search",
        "Search, within a budget, and export the best model.",
        "search search_spaces/demo.yaml --budget 4m --memory-budget 3GiB --run-dir runs/demo",
        _search,
    )
    _add_space(search)
    search.add_argument("--strategy", choices=STRATEGIES, help="in place of the file's")
    search.add_argument("--seed", type=int, help="in place of the file's")
    search.add_argument(
        "--deterministic",
        action="store_true",
        default=None,
        help="same trials and values for any number of workers; wants a budget in trials",
    )
    search.add_argument(
        "--warm-start", type=Path, metavar="RUN_DIR", help="score first what this earlier run has found to be the best"
    )
    search.add_argument("--run-dir", type=Path, help="where everything is kept (default: runs/NAME-SEED of the file)")
    _add_budget(search)
    _add_machine(search)

    resume = command("resume", "Go on with a run; nothing finished is lost.", "resume runs/demo --budget 10m", _resume)
    resume.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="of an earlier search")
    _add_budget(resume)
    _add_machine(resume)

    export = command(
        "export", "Write a fully trained candidate as a model folder.", "export runs/demo --output my_model", _export
    )
    export.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="of a search")
    export.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to write")
    export.add_argument("--storage", metavar="URL", help="in place of the one that the run was started with")
    which = export.add_mutually_exclusive_group()
    which.add_argument("--trial", type=int, metavar="N", help="which candidate")
    which.add_argument(
        "--pick",
        nargs="+",
        default=["best"],
        metavar="HOW",
        help="of those trained in full: best (the highest metric; default), knee (of the front of all objectives), or "
        "smallest-within 0.01 (the fewest trainable parameters with a metric at most so much lower)",
    )

    evaluate = command(
        "evaluate",
        "Measure an exported model on a data set.",
        "evaluate runs/demo/best --data demo/data/manifest.csv --images demo/data/images.zip",
        _evaluate,
    )
    evaluate.add_argument("model", type=Path, metavar="DIR", help="an exported model")
    evaluate.add_argument("--data", type=Path, required=True, metavar="PATH", help="a manifest, or a data set's folder")
    evaluate.add_argument(
        "--reader", choices=READERS.names(), help="form of the data (default: that of the model's own)"
    )
    evaluate.add_argument("--images", type=Path, help="folder or ZIP of its images (default: the manifest's folder)")
    evaluate.add_argument("--split", choices=("train", "validation", "test"), default="test")
    for column in COLUMNS:
        evaluate.add_argument(f"--{column}-column", metavar="NAME", help=argparse.SUPPRESS)

    predict = command(
        "predict",
        "Classify one image with its text.",
        'predict runs/demo/best --image apple.png --text "red apple"',
        _predict,
    )
    predict.add_argument("model", type=Path, metavar="DIR", help="an exported model")
    predict.add_argument("--image", type=Path, required=True, metavar="FILE")
    predict.add_argument("--text", required=True)
    predict.add_argument(
        "--top",
        type=int,
        default=5,
        metavar="K",
        help="how many classes to show (default: 5), of several labels also all that are there",
    )

    compare = command(
        "compare",
        "Train every fusion family with one recipe, search PMF, and put all in one table.",
        "compare search_spaces/demo.yaml --seeds 3 --budget 4m --run-dir runs/comparison",
        _compare,
    )
    _add_space(compare)
    compare.add_argument(
        "--families", nargs="+", metavar="NAME", help="which are trained and shown (default: all, and the searched PMF)"
    )
    compare.add_argument("--seeds", type=_seed_count, default=3, metavar="N", help="of each family (default: 3)")
    compare.add_argument("--run-dir", type=Path, help="where everything is kept (default: runs/NAME-comparison)")
    _add_budget(compare)
    _add_machine(compare)
    return parser


def _add_space(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "space", type=Path, metavar="SPACE.yaml", help="what to search, on which data, and how to train"
    )


def _add_budget(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--budget",
        action="append",
        metavar="BUDGET",
        help="time (4m, 2h) or trials in all (200), in place of the file's; give it twice for both",
    )
    _add_memory_budget(parser)


def _add_memory_budget(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--memory-budget",
        metavar="BYTES",
        help="memory of all workers together, for instance 3GiB, in place of the file's",
    )


def _add_machine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers",
        type=_worker_count,
        default=None,
        metavar="N",
        help="Ray workers; auto (default): as many as cores, GPUs and memory have room for; 0: all in this process",
    )
    parser.add_argument("--ray-address", metavar="ADDRESS", help="join a Ray cluster instead of starting a private Ray")
    parser.add_argument(
        "--storage", metavar="URL", help="keep the study in a database (sqlite:///..., postgresql://...), not a journal"
    )
    parser.add_argument("--cache-dir", type=Path, help="base features are kept here (default: in the user's cache)")


def _seed_count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 100):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to 100, got {text!r}")
    return int(text)


def _worker_count(text: str) -> int | None:
    if text == "auto":
        return None
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"expected auto or a whole number of at least 0, got {text!r}")
    return int(text)


def _overrides(options: argparse.Namespace) -> "Overrides":
    time_seconds: float | None = None
    trials: int | None = None
    for text in getattr(options, "budget", None) or ():
        seconds, count = parse_budget(text)
        time_seconds, trials = seconds or time_seconds, count or trials
    memory_bytes: int | None = None
    if options.memory_budget is not None:
        try:
            memory_bytes = parse_bytes(options.memory_budget)
        except ValueError as error:
            raise BudgetError(f"--memory-budget {options.memory_budget!r}: {error}") from error

    import_frameworks()
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


def _machine(options: argparse.Namespace) -> "ExecutionOptions":
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
        start(options.space, options.run_dir, overrides, _machine(options), reporter)


def _resume(options: argparse.Namespace) -> None:
    overrides = _overrides(options)
    from nas.common.progress import build_reporter
    from nas.run.commands import resume

    with build_reporter() as reporter:
        resume(options.run_dir, overrides, _machine(options), reporter)


def _export(options: argparse.Namespace) -> None:
    how = _pick(options.pick)
    import_frameworks()
    from nas.run.export_run import export_run

    result = export_run(options.run_dir, options.output, trial=options.trial, how=how, storage=options.storage)
    print(f"Exported model: {options.output} (trial {result.trial}, {result.architecture})")


def _pick(words: Sequence[str]) -> tuple["Pick", float]:
    """What `--pick` says.

    Raises:
        ArgumentError: If it is none of the ways to pick.
    """
    if list(words) == ["best"]:
        return "best", 0.0
    if list(words) == ["knee"]:
        return "knee", 0.0
    if len(words) == 2 and words[0] == "smallest-within" and re.fullmatch(r"\d+(\.\d+)?", words[1]):
        return "smallest-within", float(words[1])
    raise ArgumentError(
        f"--pick {' '.join(words)}: expected best, knee, or smallest-within and how much lower the metric may be, for "
        "instance smallest-within 0.01"
    )


def _compare(options: argparse.Namespace) -> None:
    overrides = _overrides(options)
    from nas.common.progress import build_reporter
    from nas.config.load import load_config
    from nas.run.comparison.compare import ENTRIES, compare

    names = options.families or ENTRIES
    unknown = [name for name in names if name not in ENTRIES]
    if unknown:
        raise ArgumentError(f"--families {' '.join(unknown)}: expected any of {', '.join(ENTRIES)}")
    if options.run_dir is None:
        options.run_dir = Path("runs") / f"{load_config(options.space).name}-comparison"
    with build_reporter() as reporter:
        compare(
            options.space,
            options.run_dir,
            names=[name for name in ENTRIES if name in names],
            seeds=options.seeds,
            overrides=overrides,
            machine=_machine(options),
            reporter=reporter,
        )


def _evaluate(options: argparse.Namespace) -> None:
    import_frameworks()
    from nas.run.evaluate import evaluate_exported
    from nas.run.exported_model import exported_form
    from nas.training.metrics import standard_error

    form = exported_form(options.model)
    reader = options.reader or form["reader"]
    if reader != form["reader"]:
        form = {"reader": reader, "labels": form["labels"]} if READERS[reader].has_label_keys else {"reader": reader}
    place = {"manifest" if READERS[reader].uses_manifest else "folder": str(options.data)}
    if options.images is not None:
        place["images"] = str(options.images)
    given = {name: getattr(options, f"{name}_column") for name in COLUMNS}
    columns = {**form.get("columns", {}), **{name: value for name, value in given.items() if value is not None}}
    values = {**form, **place, "allow_duplicates": True}  # one split is looked at alone
    if columns:
        values["columns"] = columns
    data = parse_data(values, source="--data", base_directory=Path.cwd())
    metrics, count = evaluate_exported(options.model, data, options.split)
    for name, value in metrics.items():
        # The binomial error holds for a share of samples, not for averages over classes.
        error = f" ± {standard_error(value, count):.4f}" if name == "accuracy" else ""
        print(f"{name}: {value:.6f}{error} ({count} samples)")


def _predict(options: argparse.Namespace) -> None:
    import_frameworks()
    from nas.data.images import open_images
    from nas.run.exported_model import open_exported

    if not options.image.is_file():
        raise DataError(f"{options.image}: there is no such image")
    exported = open_exported(options.model)
    image = open_images(options.image.parent).open(options.image.name)
    probabilities = exported.probabilities([image], [options.text])[0]
    values, indices = probabilities.sort(descending=True)
    for place, (value, index) in enumerate(zip(values.tolist(), indices.tolist(), strict=True)):
        is_there = exported.has_several_labels and value > exported.threshold
        if is_there or place < max(options.top, 1):
            print(f"{exported.class_names[index]}: {value:.4f}{' yes' if is_there else ''}")
