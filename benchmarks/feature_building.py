"""Benchmark the building of features: one thread against the bare encoders, and two threads against one.

The bare encoders have their pixel values and token ids in memory, and run the same batches through all their layers on
one core. Building also decodes and processes images, stores, and makes the blocks durable. The ceiling of two threads
is the bare encoders in two processes at once: cores share memory bandwidth, caches, and sometimes more. All figures
are ratios within one round, medians over rounds. Images and texts are those of the demo; `--size base` replaces the
encoders of the demo with ViT-B and BERT-B with random weights.

Run: python -m benchmarks.feature_building [--size base|demo] [--json FILE] [--quick]
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch

from benchmarks.feature_store import Case, bare_forward, make_case, seconds_of
from nas.data.features.build import FeatureBuild
from nas.data.features.threads import BuildThreads
from nas.memory.measurement import keep_freed_memory
from nas.run.tables import text_table

BARS = {"one_thread_of_bare": 0.9, "two_threads_of_one": 1.7}


def main() -> None:
    """Measure, print the figures as a table and, on request, write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("base", "demo"), default="base")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="demo, 32 samples, one round: shows that the script works")
    options = parser.parse_args()
    size, count, rounds = options.size, options.samples, options.rounds
    if options.quick:
        size, count, rounds = "demo", 32, 1
    figures = measure(size, count, rounds)
    bars = {name: f"≥ {bar}" for name, bar in BARS.items()}
    print(
        text_table(
            ("figure", "value", "bar"), [(name, f"{value:.3f}", bars.get(name, "")) for name, value in figures.items()]
        )
    )
    if options.json:
        options.json.write_text(json.dumps({"size": size, "samples": count, "rounds": rounds, **figures}, indent=1))


def measure(size: str, count: int, rounds: int) -> dict[str, float]:
    """Return the figures of the benchmark.

    Args:
        size: The size of the encoders.
        count: The number of images and of texts.
        rounds: The number of repetitions.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    seconds: dict[str, list[float]] = {"bare": [], "one": [], "bare_twice": [], "two": []}
    with ProcessPoolExecutor(2, mp_context=context, initializer=_start, initargs=(size, count, barrier)) as pool:
        _both(pool, meets=True)  # warm-up
        for _ in range(rounds):
            seconds["bare"].append(pool.submit(_bare, meets=False).result())
            seconds["one"].append(pool.submit(_build, 1).result())
            seconds["bare_twice"].append(_both(pool, meets=True) / 2)
            seconds["two"].append(pool.submit(_build, 2).result())
    return {
        "one_thread_of_bare": _ratio(seconds["bare"], seconds["one"]),
        "two_threads_of_one": _ratio(seconds["one"], seconds["two"]),
        "ceiling_of_two": _ratio(seconds["bare"], seconds["bare_twice"]),
        "two_threads_of_ceiling": _ratio(seconds["bare_twice"], seconds["two"]),
        "bare_samples_per_second": count / statistics.median(seconds["bare"]),
        "one_thread_samples_per_second": count / statistics.median(seconds["one"]),
        "two_threads_samples_per_second": count / statistics.median(seconds["two"]),
    }


def _both(pool: ProcessPoolExecutor, *, meets: bool) -> float:
    """Return the seconds of the bare encoders in both processes at once: their mean, as both do the same work."""
    running: list[Future[float]] = [pool.submit(_bare, meets=meets) for _ in range(2)]
    return statistics.mean(future.result() for future in running)


def _ratio(seconds: list[float], of_seconds: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(seconds, of_seconds, strict=True))


class _Process:
    """What a measuring process holds."""

    case: Case
    barrier: Barrier


def _start(size: str, count: int, barrier: Barrier) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()  # speeds up both sides
    _Process.case, _Process.barrier = make_case(size, count), barrier


def _bare(*, meets: bool) -> float:
    """Return the seconds of the bare encoders; they begin when the other process does, if it takes part."""
    run = bare_forward(_Process.case, whole=True)
    if meets:
        _Process.barrier.wait()
    return seconds_of(run)


def _build(threads: int) -> float:
    """Return the seconds of computing and recording all blocks."""
    build = FeatureBuild(_Process.case.sources, _Process.case.config.features)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "build"
        build.start(directory)
        return seconds_of(partial(build.run, directory, lambda done, total: None, BuildThreads(threads)))


if __name__ == "__main__":
    main()
