"""Measure the effect of the storage type of base features on the metric, with PMF's default architecture on the demo.

Trains on float16, int8 and float32 features with the same seeds, order of samples and full recipe, and compares the
validation accuracy.

Run: python -m benchmarks.feature_precision [--seeds 5] [--dtype TYPE ...] [--json FILE] [--quick]
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.models import DEMO, add_precision, few_samples, in_precision
from benchmarks.recipe_stability import QUICK_STEPS, train_all
from nas.common.files import default_cache_directory
from nas.common.progress import build_reporter
from nas.config.load import load_config
from nas.run.executors import write_worker_setup
from nas.run.prepare import prepare
from nas.run.tables import text_table
from nas.training.trainer import full_step_count

_OTHERS = ("float16", "int8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--dtype", nargs="+", default=list(_OTHERS), choices=_OTHERS, help="compared with float32")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE")
    add_precision(parser)
    parser.add_argument("--quick", action="store_true", help="2 seeds and a few steps: shows that the script works")
    options = parser.parse_args()
    seeds = 2 if options.quick else options.seeds
    accuracy: dict[str, list[float]] = {}
    for dtype in (*options.dtype, "float32"):
        with build_reporter() as reporter, tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            config = in_precision(few_samples(directory) if options.quick else load_config(DEMO), options.precision)
            typed = config.replace(features=config.features.replace(dtype=dtype))
            prepared = prepare(typed, source=str(DEMO), cache_directory=default_cache_directory(), reporter=reporter)
            setup = write_worker_setup(typed, prepared, directory, thread_count=1)
            steps = QUICK_STEPS if options.quick else full_step_count(typed.recipe, len(prepared.store.splits["train"]))
            runs = [(prepared.default, seed) for seed in range(seeds)]
            accuracy[dtype] = [result.score for result in train_all(setup, runs, steps, options.workers)]
    figures: dict[str, Any] = {
        **{f"{dtype}_accuracy": values for dtype, values in accuracy.items()},
        "standard_deviation_over_seeds": statistics.stdev(accuracy["float32"]),
    }
    rows = [
        (dtype, f"{statistics.mean(values):.4f}", " ".join(f"{v:.4f}" for v in values))
        for dtype, values in accuracy.items()
    ]
    print(text_table(("features", "mean validation accuracy", "each seed"), rows))
    for dtype in options.dtype:
        differences = [a - b for a, b in zip(accuracy[dtype], accuracy["float32"], strict=True)]
        mean, error = statistics.mean(differences), statistics.stdev(differences) / len(differences) ** 0.5
        figures[f"{dtype}_difference"] = {"mean": mean, "standard_error": error}
        print(f"{dtype} − float32: {mean:+.4f} ± {error:.4f}")
    print(f"over seeds the accuracy varies by {figures['standard_deviation_over_seeds']:.4f}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
