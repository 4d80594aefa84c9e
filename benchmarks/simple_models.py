"""Compare the linear and the bilinear classifier on the frozen encoders, which every search solves first.

Both are solved as in a search, with one thread; the readouts and all penalties are chosen on validation, and scored on
it. The test split is not read. The time is that of the processor.

Run: python -m benchmarks.simple_models [--data DIR] [--task NAME ...] [--json FILE] [--quick]
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.classifier_start import search_files
from benchmarks.models import few_samples, write_figures
from benchmarks.suite.tasks import TASKS
from nas.common.files import default_cache_directory
from nas.common.progress import Reporter, build_reporter
from nas.config.load import load_config
from nas.models.fusion.bilinear.architecture import BilinearArchitecture
from nas.run.defaults import complete
from nas.run.phases.bilinear import affordable_count, solve_bilinear
from nas.run.phases.linear import solve_linear
from nas.run.prepare import prepare
from nas.run.tables import text_table
from nas.training.bilinear import LinearStart
from nas.training.linear import LinearChoice


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of `benchmarks.suite.make`; without: the demo")
    parser.add_argument("--task", nargs="+", choices=TASKS, help="the tasks (default: all in DIR)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the figures")
    parser.add_argument("--quick", action="store_true", help="trial run: a few samples of the demo")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, dict[str, Any]] = {}
    with build_reporter() as reporter:
        for name, source in search_files(options).items():
            figures[name] = solve(source, reporter, is_quick=options.quick)
            write_figures(options.json, figures)
    rows = [
        (name, model, value["architecture"], f"{value['score']:.3f}", f"{value['seconds']:.0f}s")
        for name, models in figures.items()
        for model, value in models.items()
    ]
    print(text_table(("task", "classifier", "architecture", "validation metric", "time"), rows))


def solve(source: Path, reporter: Reporter, *, is_quick: bool) -> dict[str, Any]:
    """Solve both classifiers of a task, and return their figures.

    Args:
        source: The search file with the data and the encoders.
        reporter: The receiver of messages.
        is_quick: Whether a few samples of the demo are enough.
    """
    with tempfile.TemporaryDirectory() as name:
        config = few_samples(Path(name)) if is_quick else load_config(source)
        config = complete(config, source=str(source))
        prepared = prepare(config, source=str(source), cache_directory=default_cache_directory(), reporter=reporter)
        started = time.process_time()
        architecture, linear = solve_linear(config, prepared)
        solved = time.process_time()
        count, _ = affordable_count(prepared, config.budget.memory_bytes)
        both = BilinearArchitecture(count, architecture.image_readout, architecture.text_readout)
        start = LinearStart(linear.solution.weight, linear.solution.bias, linear.penalty)
        _, bilinear = solve_bilinear(config, prepared, both, start)
        ended = time.process_time()
    return {
        "linear": _figures(str(architecture), linear, solved - started),
        "bilinear": _figures(str(both), bilinear, ended - solved),
    }


def _figures(architecture: str, choice: LinearChoice, seconds: float) -> dict[str, Any]:
    return {"architecture": architecture, "score": choice.score, "penalty": choice.penalty, "seconds": seconds}


if __name__ == "__main__":
    main()
