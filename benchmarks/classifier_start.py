"""Compare random classifiers with solved ones at the start of a training: PMF's default over several seeds.

Every task is trained with the automatic recipe and `recipe.classifier_start: random` and `linear`, with the same seeds.
The rates follow. The default reads what the linear classifier reads best, as in a search, or with `--readouts pooled`
the outputs of the CLS tokens. Everything is measured on validation.

Run: python -m benchmarks.classifier_start [--data DIR] [--task NAME ...] [--readouts pooled] [--json FILE] [--quick]
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from benchmarks.models import DEMO, add_precision, few_samples, in_precision, write_figures
from benchmarks.recipe_stability import QUICK_STEPS, train_all
from benchmarks.suite.tasks import SEARCH_FILE, TASKS
from nas.common.files import default_cache_directory
from nas.common.progress import Reporter, build_reporter
from nas.config.choices import ClassifierStart
from nas.config.load import load_config, parse_config
from nas.config.schema import Config
from nas.run.defaults import complete
from nas.run.executors import write_worker_setup
from nas.run.phases.linear import solve_linear
from nas.run.phases.readouts import ChosenReadouts
from nas.run.prepare import prepare
from nas.run.tables import text_table
from nas.search.space import Architecture
from nas.training.trainer import full_step_count

STARTS: tuple[ClassifierStart, ...] = get_args(ClassifierStart)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of `benchmarks.suite.make`; without: the demo")
    parser.add_argument("--task", nargs="+", choices=TASKS, help="the tasks (default: all in DIR)")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: 3)")
    parser.add_argument(
        "--readouts",
        choices=("linear", "pooled"),
        default="linear",
        help="default: as the linear classifier chooses",
    )
    parser.add_argument("--workers", type=int, default=2, help="number of workers (default: 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the figures")
    add_precision(parser)
    parser.add_argument("--quick", action="store_true", help="trial run: 2 seeds and a few steps of the demo")
    options = parser.parse_args()
    figures: dict[str, dict[str, Any]] = {}
    with build_reporter() as reporter:
        for name, source in search_files(options).items():
            figures[name] = {start: train(source, start, options, reporter) for start in STARTS}
            write_figures(options.json, figures)
    rows = [
        (name, start, f"{value['mean']:.4f}", f"{value['standard_deviation']:.4f}", f"{value['seconds']:.0f}s")
        for name, starts in figures.items()
        for start, value in starts.items()
    ]
    print(text_table(("task", "classifiers", "validation metric", "standard deviation", "one training"), rows))


def search_files(options: argparse.Namespace) -> dict[str, Path]:
    """Return the search file of every task, by name."""
    if options.data is None:
        return {"clipart": DEMO}
    found = {name: options.data / name / SEARCH_FILE for name in options.task or TASKS}
    return {name: path for name, path in found.items() if options.task or path.exists()}


def with_start(config: Config, start: ClassifierStart) -> Config:
    """Return a configuration with the data and the encoders of another, and the automatic recipe for a start."""
    values = config.as_dict()
    kept = {key: values[key] for key in ("name", "data", "encoders")}
    kept |= {"search": {"objective": config.search.objective}, "recipe": {"classifier_start": start}}
    kept |= {"features": {"attention": True}}
    source = f"{config.name}, {start}"
    return complete(parse_config(kept, source=source, base_directory=Path.cwd()), source=source)


def train(source: Path, start: ClassifierStart, options: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Train PMF's default with every seed, and return the figures.

    Args:
        source: The search file with the data and the encoders.
        start: The initial classifiers.
        options: The options of the command line.
        reporter: The receiver of messages.
    """
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        config = with_start(few_samples(directory) if options.quick else load_config(source), start)
        config = in_precision(config, options.precision)
        prepared = prepare(config, source=str(source), cache_directory=default_cache_directory(), reporter=reporter)
        setup = write_worker_setup(config, prepared, directory, thread_count=1)
        full = full_step_count(config.recipe, len(prepared.store.splits["train"]))
        default = prepared.default
        if options.readouts == "linear":
            default = ChosenReadouts.by_linear(config, solve_linear(config, prepared)[0]).architecture(default)
        seeds = range(2 if options.quick else options.seeds)
        runs: Sequence[tuple[Architecture, int]] = [(default, seed) for seed in seeds]
        results = train_all(setup, list(runs), QUICK_STEPS if options.quick else full, options.workers)
    scores = [result.score for result in results]
    return {
        "architecture": str(default),
        "mean": statistics.mean(scores),
        "standard_deviation": statistics.stdev(scores) if len(scores) > 1 else 0.0,
        "scores": scores,
        "seconds": statistics.mean(result.seconds for result in results),
        "steps": results[0].step_count,
        "recipe": config.as_dict()["recipe"],
    }


if __name__ == "__main__":
    main()
