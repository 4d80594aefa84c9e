"""Measure the effect of bfloat16 on the metric and on the time, with PMF's default architecture on the demo.

Trains in float32 and in bfloat16 with the same seeds, order of samples and full recipe, on CPU workers, and compares
validation accuracy and cross-entropy by their paired differences, with a 95 % interval of Student's t. Figures depend
on the processor: some round differently, and most take longer for bfloat16.

Run: python -m benchmarks.precision [--seeds 5] [--json FILE] [--quick]
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy.special import stdtrit

from benchmarks.models import DEMO, few_samples, in_precision, write_figures
from benchmarks.recipe_stability import QUICK_STEPS, train_all
from nas.common.files import default_cache_directory
from nas.common.precision import PRECISIONS, Precision
from nas.common.progress import build_reporter
from nas.config.load import load_config
from nas.run.executors import write_worker_setup
from nas.run.prepare import prepare
from nas.run.tables import text_table
from nas.search.trial import Result
from nas.training.trainer import full_step_count

METRICS = ("accuracy", "cross_entropy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds (default: 5)")
    parser.add_argument("--workers", type=int, default=2, help="number of workers (default: 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the figures")
    parser.add_argument("--quick", action="store_true", help="trial run: 1 seed and a few steps")
    options = parser.parse_args()
    seeds = 1 if options.quick else options.seeds
    found = {precision: train(precision, seeds, options.workers, is_quick=options.quick) for precision in PRECISIONS}
    figures: dict[str, Any] = {name: _figures(results) for name, results in found.items()}
    pairs = list(zip(found["bfloat16"], found["float32"], strict=True))
    figures["difference"] = {
        metric: interval([half.metrics[metric] - whole.metrics[metric] for half, whole in pairs]) for metric in METRICS
    }
    write_figures(options.json, figures)
    rows = [
        (
            name,
            metric,
            f"{figures[name][metric]['mean']:.4f}",
            " ".join(map("{:.4f}".format, figures[name][metric]["each"])),
        )
        for name in PRECISIONS
        for metric in METRICS
    ]
    print(text_table(("precision", "validation metric", "mean", "each seed"), rows))
    for metric, entry in figures["difference"].items():
        bounds = " to ".join(map("{:+.4f}".format, entry.get("interval", ()))) or "unknown"
        print(f"bfloat16 − float32, {metric}: {entry['mean']:+.4f}, 95 % interval {bounds}")


def train(precision: Precision, seeds: int, workers: int, *, is_quick: bool) -> list[Result]:
    """Train the default in a precision with every seed, and return the results in their order.

    Args:
        precision: The precision.
        seeds: The number of seeds.
        workers: The number of workers.
        is_quick: Whether to train a few steps on a few samples.
    """
    with build_reporter() as reporter, tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        config = in_precision(few_samples(directory) if is_quick else load_config(DEMO), precision)
        prepared = prepare(config, source=str(DEMO), cache_directory=default_cache_directory(), reporter=reporter)
        setup = write_worker_setup(config, prepared, directory, thread_count=1)
        steps = QUICK_STEPS if is_quick else full_step_count(config.recipe, len(prepared.store.splits["train"]))
        results = train_all(setup, [(prepared.default, seed) for seed in range(seeds)], steps, workers)
    assert {result.precision for result in results} == {precision}
    return results


def interval(differences: Sequence[float]) -> dict[str, Any]:
    """Return the mean of paired differences and its 95 % interval, which a single pair lacks."""
    mean, count = statistics.mean(differences), len(differences)
    entry: dict[str, Any] = {"mean": mean, "each": list(differences)}
    if count > 1:
        half = float(stdtrit(count - 1, 0.975)) * statistics.stdev(differences) / count**0.5
        entry["interval"] = [mean - half, mean + half]
    return entry


def _figures(results: Sequence[Result]) -> dict[str, Any]:
    values = {metric: [result.metrics[metric] for result in results] for metric in METRICS}
    figures: dict[str, Any] = {name: {"mean": statistics.mean(each), "each": each} for name, each in values.items()}
    return {**figures, "seconds": statistics.mean(result.seconds for result in results)}


if __name__ == "__main__":
    main()
