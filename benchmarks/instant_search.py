"""Searches whose workers return at once, so that only the work of the driver remains.

A whole search (`nas.run.phases.loop.Search`) of the demo with its own encoders, features, memory budget and memory
predictions, a journal on disk and two Ray workers; only the work of the workers is omitted.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from benchmarks.models import DEMO, papers_space
from benchmarks.scaling.instant_actor import instant_result
from nas.common.files import default_cache_directory
from nas.common.interrupt import Interruption
from nas.common.progress import LineReporter, Reporter
from nas.config.load import load_config
from nas.config.schema import Config
from nas.execution.base import Device, Executor, JobOutcome, SupernetJob, SupernetProgress
from nas.execution.placement import Placement
from nas.execution.ray.executor import RayExecutor
from nas.execution.worker import CandidateWorker
from nas.execution.worker_setup import WorkerSetup
from nas.models.fusion.base import FusionModel
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.models.fusion.supernet import build_model
from nas.run.executors import write_worker_setup
from nas.run.phases.loop import Search
from nas.run.prepare import SearchContext, prepare
from nas.run.progress_lines import PHASE_TITLES
from nas.run.time_budget import TimeAccount
from nas.search.space import SearchSpace
from nas.search.trial import Failure, Job, Result
from nas.storage.study import Study
from nas.training.checkpoint import save_weights
from nas.training.distributed import GradientGroup

WORKERS = 2
LARGER: dict[str, tuple[int, ...]] = {
    "query_context_prompts": tuple(range(9)),
    "fusion_context_prompts": tuple(range(9)),
    "mapping_width": tuple(range(12, 385, 12)),
}
"""Larger choices for some genes; with the other genes of the demo they make 31,104 architectures."""


def configuration(strategy: str, together: int, trials: int) -> Config:
    """Return the demo's configuration with a larger space and a budget in trials.

    Args:
        strategy: The name of the search strategy.
        together: The number of candidates that are scored together.
        trials: The budget.
    """
    config = load_config(DEMO)
    return config.replace(
        space=SearchSpace(PMFArchitecture, {**papers_space(config.space).choices, **LARGER}),
        search=config.search.replace(strategy=strategy, eval_batch=together),
        budget=config.budget.replace(time_seconds=None, trials=trials),
    )


def search(config: Config, directory: Path) -> dict[str, float]:
    """Run the whole search on a private Ray, and return its figures."""

    def private_executor(setup: WorkerSetup) -> RayExecutor:
        placement = Placement(worker_count=WORKERS, most_by_memory=WORKERS, threads=1)
        return RayExecutor(setup, placement=placement, factory=InstantWorker)

    reporter, warm_up_seconds = run_search(config, directory, private_executor)
    trials = config.budget.trials or 0
    early = trials // 10
    first, last = reporter.cost(early - early // 2, early), reporter.cost(trials - early // 2, trials)
    return {
        f"milliseconds_per_trial_at_{early}": first.milliseconds,
        f"milliseconds_per_trial_at_{trials}": last.milliseconds,
        "ratio": last.milliseconds / first.milliseconds,
        f"processor_milliseconds_per_trial_at_{early}": first.processor_milliseconds,
        f"processor_milliseconds_per_trial_at_{trials}": last.processor_milliseconds,
        "warm_up_seconds": warm_up_seconds,
        "resident_bytes": resident_bytes(),
        "resident_growth_bytes": last.resident_bytes - first.resident_bytes,
    }


def run_search(
    config: Config, directory: Path, build_executor: Callable[[WorkerSetup], RayExecutor]
) -> "tuple[Timeline, float]":
    """Run a whole search.

    Args:
        config: The configuration, with a budget in trials.
        directory: The run directory.
        build_executor: Function that starts the workers.

    Returns:
        The moments of all trials, and the seconds that the memory predictions took before the first one.
    """
    with (directory / "search.log").open("w") as log:
        reporter = Timeline(log)
        prepared = prepare_demo(config, reporter)
        setup = write_worker_setup(config, prepared, directory, thread_count=1)
        # An existing supernet is not trained; instant workers do not read it.
        save_weights(setup.supernet_path, small_model(prepared), steps="0")
        started = time.perf_counter()
        for architecture in SearchSpace(
            PMFArchitecture, {**config.space.choices, "mapping_width": LARGER["mapping_width"][:1]}
        ):
            prepared.memory.predict(architecture)
        warm_up_seconds = time.perf_counter() - started
        with open_study(config, directory) as study:
            executor = build_executor(setup)
            try:
                build_search(config, prepared, setup, study, executor, reporter).run(compares=False)
            finally:
                executor.close()
            trials = config.budget.trials or 0
            promoted = int(trials * config.search.promotion_fraction)
            if (study.count("one_shot"), study.count("short")) != (trials, promoted):
                raise SystemExit(f"{study.count('one_shot')} of {trials} trials ended; expected all of them")
    return reporter, warm_up_seconds


def small_model(prepared: SearchContext) -> FusionModel:
    """Build a model whose weights stand in for those of a supernet."""
    return build_model(
        image_encoder=prepared.image_encoder,
        text_encoder=prepared.text_encoder,
        architecture=prepared.default,
        num_classes=len(prepared.store.class_names),
        seed=0,
    )


def resume_seconds(config: Config, directory: Path) -> float:
    """Return the time from opening the study of an earlier process until the first new candidate would start."""
    with (directory / "resume.log").open("w") as log:
        reporter = Timeline(log)
        prepared = prepare_demo(config, reporter)
        setup = write_worker_setup(config, prepared, directory, thread_count=1)
        executor = FirstProposal()
        started = time.perf_counter()
        with open_study(config, directory) as study:
            try:
                build_search(config, prepared, setup, study, executor, reporter).run(compares=False)
            except ProposalReady as ready:
                return ready.at - started
    raise SystemExit("the resumed search proposed no candidate")


def prepare_demo(config: Config, reporter: Reporter) -> SearchContext:
    return prepare(config, source=str(DEMO), cache_directory=default_cache_directory(), reporter=reporter)


@contextmanager
def open_study(config: Config, directory: Path) -> Iterator[Study]:
    with Study(directory, config.space, name="driver", config=config.as_dict()) as study:
        yield study


def build_search(
    config: Config, prepared: SearchContext, setup: WorkerSetup, study: Study, executor: Executor, reporter: Reporter
) -> Search:
    return Search(
        config=config,
        prepared=prepared,
        setup=setup,
        study=study,
        executor=executor,
        account=TimeAccount(setup.run_directory / "time.json"),
        interruption=Interruption(),
        reporter=reporter,
    )


@dataclass(frozen=True)
class Moment:
    """The state of this process when a number of trials had ended.

    Args:
        trials: The number of trials.
        seconds: The time of a clock.
        processor_seconds: The processor time of this process.
        resident_bytes: The resident memory of this process.
    """

    trials: int
    seconds: float
    processor_seconds: float
    resident_bytes: int

    @classmethod
    def now(cls, trials: int) -> "Moment":
        return cls(trials, time.perf_counter(), time.process_time(), resident_bytes())


@dataclass(frozen=True)
class Cost:
    """Mean cost of one trial over a range of trials, and the resident memory at its end."""

    milliseconds: float
    processor_milliseconds: float
    resident_bytes: int


class Timeline(LineReporter):
    """Reporter that writes the log of a search and records when each trial had ended."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._moments = [Moment.now(0)]

    def progress(
        self, phase: str, done: int, total: int | None, detail: str = "", *, left_seconds: float | None = None
    ) -> None:
        super().progress(phase, done, total, detail, left_seconds=left_seconds)
        if phase == PHASE_TITLES["candidates"] and done > self._moments[-1].trials:
            self._moments.append(Moment.now(done))

    def cost(self, after: int, until: int) -> Cost:
        """Return the mean cost of a range of trials.

        Args:
            after: The number of trials that had ended before the range.
            until: The number of trials that had ended after it.
        """
        begin, end = self._at(after), self._at(until)
        count = end.trials - begin.trials
        return Cost(
            milliseconds=1e3 * (end.seconds - begin.seconds) / count,
            processor_milliseconds=1e3 * (end.processor_seconds - begin.processor_seconds) / count,
            resident_bytes=end.resident_bytes,
        )

    def _at(self, trials: int) -> Moment:
        return next(moment for moment in self._moments if moment.trials >= trials)


def resident_bytes() -> int:
    """Return the resident memory of this process (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no line VmRSS")


class InstantWorker(CandidateWorker):
    """Worker that returns every job at once: it loads, scores and trains nothing."""

    def __init__(self, setup: WorkerSetup, on_exceeded: Callable[[int, int], None] | None = None) -> None:
        del on_exceeded
        self.setup = setup
        self.curve = None

    def stop(self) -> None:
        pass

    def outcomes(
        self,
        job: Job,
        *,
        limit_bytes: int | None,
        group: GradientGroup | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> list[Result | Failure]:
        del limit_bytes, group, should_stop
        config = self.setup.config
        return [instant_result(member, config.space.choices, config.supernet.steps) for member in job.members]


class ProposalReady(Exception):
    """Raised when a search is about to start its first new candidate.

    Args:
        at: The time by `time.perf_counter`.
    """

    def __init__(self, at: float) -> None:
        super().__init__(at)
        self.at = at


class FirstProposal(Executor):
    """Executor that raises `ProposalReady` when it receives the first new candidate, and runs nothing."""

    @property
    def devices(self) -> Sequence[Device]:
        return [Device("none", slot_count=WORKERS, process_count=0)]

    @property
    def running(self) -> list[Job]:
        return []

    def submit(self, job: Job, device: str, grant_bytes: int) -> None:
        del device, grant_bytes
        if job.stage != "one_shot":
            raise RuntimeError(f"{job.key.name}, {job.stage}: expected to be finished by the first search")
        raise ProposalReady(time.perf_counter())

    def wait(self, timeout_seconds: float) -> list[JobOutcome]:
        raise RuntimeError(f"wait({timeout_seconds}): no job was started")

    def stop_running(self) -> list[JobOutcome]:
        return []

    def stop_when(self, should_stop: Callable[[], bool]) -> None:
        pass

    def start_workers(self, device: str, count: int) -> None:
        pass

    def stop_idle_workers(self, device: str, count: int) -> None:
        pass

    def train_supernet(
        self,
        job: SupernetJob,
        *,
        processes: Mapping[str, int],
        grant_bytes: int,
        should_stop: Callable[[], bool],
        on_progress: Callable[[SupernetProgress], None],
    ) -> int:
        del job, processes, grant_bytes, should_stop, on_progress
        raise RuntimeError("supernet: expected the one of the first search")

    def close(self) -> None:
        pass
