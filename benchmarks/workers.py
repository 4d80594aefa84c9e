"""Measure candidates per hour with one worker and with two, of one thread each, and the memory of the second one.

The jobs are those of the demo, with its real features and encoders: groups of candidates that are scored together with
the supernet's weights, and short trainings, in the proportion of `search_spaces/demo.yaml`. Both runs use the same list
of jobs, `JobScheduler` and Ray. The supernet is not trained, because the cost of a job does not depend on its weights.

Both workers are alive all the time; while one is measured, the other is idle. A first run of the whole list with both
workers excludes start-up and the first read of every file. The measurements with one and with two workers take turns,
in alternating order; `speedup` is the median of the rounds, and `lowest_speedup` and `highest_speedup` show how steady
the machine was. A list ends with its last job, so one of two workers may wait for the other, as in a search. A
candidate is one that is scored; its share of the trainings is part of its cost.

Memory is read after all runs: `private_bytes` are the anonymous pages of a worker, including the supernet's weights;
`weights_bytes` and `features_bytes` are the frozen weights and base features that it has mapped and read;
`…_shared_bytes` is the part of these whose pages the other worker uses as well. A second worker adds its private bytes
and what it maps without sharing: `bytes_added_by_second_worker`.

Run: python -m benchmarks.workers [--rounds 3] [--blocks 4] [--json FILE] [--quick]
"""

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.models import DEMO, few_samples
from nas.common.files import default_cache_directory
from nas.common.progress import build_reporter
from nas.common.units import format_bytes
from nas.config.load import load_config
from nas.config.schema import Config
from nas.execution.failure_policy import FailurePolicy
from nas.execution.placement import Placement
from nas.execution.plan import Plan
from nas.execution.ray.executor import RayExecutor
from nas.execution.scheduler import JobScheduler
from nas.execution.worker import CandidateWorker
from nas.execution.worker_setup import WorkerSetup
from nas.models.fusion.supernet import build_supernet
from nas.run.executors import write_worker_setup
from nas.run.prepare import SearchContext, prepare
from nas.run.tables import text_table
from nas.search.keys import CandidateKey
from nas.search.space import Architecture
from nas.search.trial import Failure, Job, Result, Stage, job_seed
from nas.training.checkpoint import save_weights

WORKERS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--blocks", type=int, default=4, help="blocks of the demo's round_size candidates")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="one round of a few jobs: shows that the script works")
    options = parser.parse_args()
    with build_reporter() as reporter, tempfile.TemporaryDirectory() as name:
        config = few_samples(Path(name)) if options.quick else load_config(DEMO)
        prepared = prepare(config, source=str(DEMO), cache_directory=default_cache_directory(), reporter=reporter)
        setup = with_supernet(config, prepared, Path(name))
        jobs = job_list(config, prepared, 1 if options.quick else options.blocks)
        if options.quick:
            jobs = [jobs[0], jobs[1], jobs[-2], jobs[-1]]
        executor = RayExecutor(
            setup, placement=Placement(worker_count=WORKERS, most_by_memory=WORKERS, threads=1), factory=KnownWorker
        )
        try:
            figures = measured(config, prepared, executor, jobs, 1 if options.quick else options.rounds)
            figures |= memory(setup)
        finally:
            executor.close()
    show(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


def with_supernet(config: Config, prepared: SearchContext, directory: Path) -> WorkerSetup:
    """Write the setup of the workers and an untrained supernet."""
    setup = write_worker_setup(config, prepared, directory, thread_count=1)
    supernet = build_supernet(
        image_encoder=prepared.image_encoder,
        text_encoder=prepared.text_encoder,
        space=config.space,
        num_classes=len(prepared.store.class_names),
        seed=0,
    )
    save_weights(setup.supernet_path, supernet, steps="0")
    return setup


def job_list(config: Config, prepared: SearchContext, blocks: int) -> list[Job]:
    """Return the jobs of a search in its proportions: short trainings, and groups that are scored together."""
    rng, search = random.Random(0), config.search
    chosen: dict[Architecture, None] = {}
    while len(chosen) < blocks * search.round_size:
        chosen.setdefault(config.space.sample(rng))
    trained = round(len(chosen) * search.promotion_fraction)

    def job(trial: int, architecture: Architecture, stage: Stage) -> Job:
        return Job(
            key=CandidateKey(trial),
            architecture=architecture,
            stage=stage,
            step_count=search.short_training_steps if stage == "short" else 0,
            seed=job_seed(config.seed, stage, architecture),
            predicted_peak_bytes=prepared.memory.predict(architecture).peak_bytes,
        )

    scored = [job(trial, architecture, "one_shot") for trial, architecture in enumerate(chosen)]
    size = search.eval_batch
    groups = [scored[first : first + size] for first in range(0, len(scored), size)]
    trainings = [job(trial, architecture, "short") for trial, architecture in list(enumerate(chosen))[:trained]]
    # Trainings first: short jobs at the end keep the time short in which one worker waits for the other.
    return [*trainings, *(replace(group[0], companions=tuple(group[1:])) for group in groups)]


class JobList(Plan):
    """A list of jobs, a limited number of which run at once.

    Args:
        jobs: The jobs in their order.
        width: The number of workers in use.
    """

    def __init__(self, jobs: Sequence[Job], width: int) -> None:
        self._waiting = list(jobs)
        self._width = width
        self._out = 0
        self.results: list[Result] = []
        self._left = {job.identity: len(job.members) for job in jobs}
        self._place = {member.identity: job.identity for job in jobs for member in job.members}

    def next_jobs(self) -> list[Job]:
        if not self._waiting or self._out >= self._width:
            return []
        self._out += 1
        return [self._waiting.pop(0)]

    def finished(self, result: Result) -> None:
        self.results.append(result)
        key = self._place[result.key, result.stage]
        self._left[key] -= 1
        self._out -= not self._left[key]

    def rejected(self, failure: Failure) -> None:
        raise SystemExit(f"{failure.job.identity}: {failure.reason}")

    def requeue(self, job: Job) -> None:
        raise SystemExit(f"{job.identity} was requeued, so the measurement is not valid")


def measured(
    config: Config, prepared: SearchContext, executor: RayExecutor, jobs: Sequence[Job], rounds: int
) -> dict[str, Any]:
    """Measure candidates per hour with one worker and with two."""
    candidates = sum(len(job.members) for job in jobs if job.stage == "one_shot")
    scheduler = build_scheduler(config, prepared, executor)
    run(scheduler, jobs, WORKERS)  # warm-up
    seconds: dict[int, list[float]] = {1: [], WORKERS: []}
    for index in range(rounds):
        for width in (1, WORKERS) if index % 2 == 0 else (WORKERS, 1):
            seconds[width].append(run(scheduler, jobs, width))
            print(f"round {index + 1} of {rounds}: {width} worker(s), {seconds[width][-1]:.0f} s", flush=True)
    speedups = [one / two for one, two in zip(seconds[1], seconds[WORKERS], strict=True)]
    return {
        "speedup": statistics.median(speedups),
        "lowest_speedup": min(speedups),
        "highest_speedup": max(speedups),
        "candidates_per_hour_with_1": 3600 * candidates / statistics.median(seconds[1]),
        f"candidates_per_hour_with_{WORKERS}": 3600 * candidates / statistics.median(seconds[WORKERS]),
        "candidates": candidates,
        "trainings": sum(job.stage == "short" for job in jobs),
        "rounds": rounds,
        "threads_per_worker": 1,
        "cores": os.cpu_count(),
        "seconds": {str(width): values for width, values in seconds.items()},
    }


def build_scheduler(config: Config, prepared: SearchContext, executor: RayExecutor) -> JobScheduler:
    def refuse(failure: Failure) -> None:
        raise SystemExit(f"{failure.job.identity}: {failure.reason}")

    return JobScheduler(
        executor=executor,
        budget_bytes=config.budget.memory_bytes,
        idle_bytes=prepared.memory.idle_bytes,
        policy=FailurePolicy(was_alone=lambda job: False, try_alone=lambda job: None, record=refuse),
        runs_alone=lambda job: False,
        take=lambda result: None,
        show=lambda failure, verdict: print(f"{failure.job.identity} {verdict}: {failure.reason}", flush=True),
        now=time.monotonic,
    )


def run(scheduler: JobScheduler, jobs: Sequence[Job], width: int) -> float:
    """Run all jobs and return the seconds that they took."""
    plan = JobList(jobs, width)
    started = time.perf_counter()
    scheduler.run(plan, is_over=lambda: False)
    seconds = time.perf_counter() - started
    if len(plan.results) != sum(len(job.members) for job in jobs):
        raise SystemExit(f"{len(plan.results)} results instead of all, so the measurement is not valid")
    return seconds


class KnownWorker(CandidateWorker):
    """A worker that creates a file with the number of its process as its name."""

    def __init__(self, setup: WorkerSetup, on_exceeded: Callable[[int, int], None] | None = None) -> None:
        super().__init__(setup, on_exceeded)
        (setup.run_directory / f"{os.getpid()}.process").touch()


def memory(setup: WorkerSetup) -> dict[str, Any]:
    """Return the memory of each worker, and the part that both share."""
    workers = [int(path.stem) for path in sorted(setup.run_directory.glob("*.process"))]
    if len(workers) != WORKERS:
        raise SystemExit(f"{len(workers)} worker processes, so the measurement is not valid; expected {WORKERS}")
    weights, features = [str(path) for path in setup.frozen_paths], [f"{setup.feature_directory}/"]
    held = []
    for process in workers:
        mapped = mappings(process)
        entry = {"private_bytes": sum(sizes["Anonymous"] for sizes in mapped.values())}
        for name, places in (("weights", weights), ("features", features)):
            parts = [sizes for path, sizes in mapped.items() if path.startswith(tuple(places))]
            if not parts:
                raise SystemExit(f"process {process} maps no {name}, so it shares none")
            entry[f"{name}_bytes"] = sum(sizes["Rss"] for sizes in parts)
            entry[f"{name}_shared_bytes"] = sum(sizes["Shared_Clean"] + sizes["Shared_Dirty"] for sizes in parts)
        held.append(entry)
    second = held[-1]
    alone = sum(second[f"{name}_bytes"] - second[f"{name}_shared_bytes"] for name in ("weights", "features"))
    return {
        "bytes_added_by_second_worker": second["private_bytes"] + alone,
        "bytes_shared_with_first_worker": second["weights_shared_bytes"] + second["features_shared_bytes"],
        "workers": held,
    }


def mappings(process: int) -> dict[str, dict[str, int]]:
    """Return the bytes of a process by mapped file, with anonymous memory under the empty name (Linux)."""
    found: dict[str, dict[str, int]] = {}
    sizes: dict[str, int] = {}
    for line in Path(f"/proc/{process}/smaps").read_text().splitlines():
        name, *rest = line.split(maxsplit=5)
        if not name.endswith(":"):  # a mapping begins: address, permissions, offset, device, inode, path
            path = rest[4] if len(rest) == 5 else ""
            sizes = found.setdefault(path if path.startswith("/") else "", {})
        elif rest[-1] == "kB":
            sizes[name[:-1]] = sizes.get(name[:-1], 0) + int(rest[0]) * 1024
    return found


def show(figures: dict[str, Any]) -> None:
    held = figures["workers"]
    rows = [
        ("candidates per hour", *(f"{figures[f'candidates_per_hour_with_{count}']:.0f}" for count in (1, WORKERS))),
        (
            "speedup",
            "",
            f"{figures['speedup']:.2f} ({figures['lowest_speedup']:.2f} to {figures['highest_speedup']:.2f})",
        ),
    ]
    print(text_table(("", "1 worker", f"{WORKERS} workers"), rows))
    print()
    names = {
        "private_bytes": "private",
        "weights_bytes": "frozen weights, mapped",
        "weights_shared_bytes": "of these shared",
        "features_bytes": "features, mapped",
        "features_shared_bytes": "of these shared",
    }
    rows = [(shown, *(format_bytes(entry[name]) for entry in held)) for name, shown in names.items()]
    print(text_table(("", "first worker", "second worker"), rows))
    print(f"a second worker adds {format_bytes(figures['bytes_added_by_second_worker'])}")


if __name__ == "__main__":
    main()
