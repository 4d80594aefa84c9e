"""Measure the stability of the demo's recipe: PMF's default over several seeds, and one architecture per fusion layer.

Everything is measured on validation. Run: python -m benchmarks.recipe_stability [--seeds 5] [--json FILE] [--quick]
"""

import argparse
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.models import DEMO, add_precision, few_samples, in_precision
from nas.common.files import default_cache_directory
from nas.common.progress import build_reporter
from nas.config.load import load_config
from nas.execution.placement import Placement
from nas.execution.ray.executor import RayExecutor
from nas.execution.worker_setup import WorkerSetup
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.run.executors import write_worker_setup
from nas.run.prepare import prepare
from nas.run.tables import text_table
from nas.search.keys import CandidateKey
from nas.search.space import Architecture
from nas.search.trial import Job, Result
from nas.training.trainer import full_step_count

QUICK_STEPS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds of the default architecture (default: 5)")
    parser.add_argument("--workers", type=int, default=2, help="number of workers (default: 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the figures")
    add_precision(parser)
    parser.add_argument("--quick", action="store_true", help="trial run: 2 seeds and a few steps")
    options = parser.parse_args()
    seeds = 2 if options.quick else options.seeds
    with build_reporter() as reporter, tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        config = in_precision(few_samples(directory) if options.quick else load_config(DEMO), options.precision)
        prepared = prepare(config, source=str(DEMO), cache_directory=default_cache_directory(), reporter=reporter)
        setup = write_worker_setup(config, prepared, directory, thread_count=1)
        steps = QUICK_STEPS if options.quick else full_step_count(config.recipe, len(prepared.store.splits["train"]))
        default = prepared.default
        assert isinstance(default, PMFArchitecture)
        others: list[Architecture] = [
            replace(default, fusion_layer=layer)
            for layer in config.space.choices["fusion_layer"]
            if layer != default.fusion_layer
        ]
        runs: list[tuple[Architecture, int]] = [(default, seed) for seed in range(seeds)]
        runs += [(other, seed) for other in others for seed in range(2)]
        results = train_all(setup, runs, steps, options.workers)
    by_architecture: dict[Architecture, list[float]] = {}
    for result in results:
        by_architecture.setdefault(result.architecture, []).append(result.score)
    rows = [
        (
            str(architecture),
            str(len(scores)),
            f"{statistics.mean(scores):.4f}",
            f"{statistics.stdev(scores):.4f}",
            " ".join(f"{score:.3f}" for score in scores),
        )
        for architecture, scores in sorted(by_architecture.items(), reverse=True)
    ]
    print(text_table(("architecture", "seeds", "validation accuracy", "standard deviation", "each"), rows))
    figures = {
        "default_mean": statistics.mean(by_architecture[default]),
        "default_standard_deviation": statistics.stdev(by_architecture[default]),
        "by_fusion_layer": {str(architecture.first_layer): scores for architecture, scores in by_architecture.items()},
        "steps": steps,
    }
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


def train_all(setup: WorkerSetup, runs: list[tuple[Architecture, int]], steps: int, workers: int) -> list[Result]:
    """Train every architecture completely with its seed, on Ray workers, and return the results in the given order."""
    jobs = [
        Job(CandidateKey(number), architecture, "full", steps, seed, 0)
        for number, (architecture, seed) in enumerate(runs)
    ]
    placement = Placement(worker_count=workers, most_by_memory=workers, threads=1)
    executor, waiting = RayExecutor(setup, placement=placement), list(jobs)
    results: dict[int, Result] = {}
    (device,) = executor.devices
    try:
        while len(results) < len(jobs):
            while waiting and len(executor.running) < device.slot_count:
                executor.submit(waiting.pop(0), device.name, setup.config.budget.memory_bytes)
            for outcome in (outcome for ended in executor.wait(5.0) for outcome in ended.outcomes):
                if not isinstance(outcome, Result):
                    raise RuntimeError(f"{outcome.job.architecture}: {outcome.reason}")
                results[outcome.trial] = outcome
                print(
                    f"{outcome.architecture} seed {outcome.seed}: {outcome.score:.4f}, {outcome.seconds:.0f}s",
                    flush=True,
                )
    finally:
        executor.close()
    return [results[job.trial] for job in jobs]


if __name__ == "__main__":
    main()
