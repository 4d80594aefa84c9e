"""A search without training: real study, strategy, phases and scheduler; scores come from a formula."""

import io
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO, cast

import yaml

from nas.common.interrupt import Interruption
from nas.common.progress import LineReporter, Reporter
from nas.common.seeds import seed_from
from nas.config.load import parse_config
from nas.config.schema import Config
from nas.config.search_schema import objectives_of
from nas.execution.base import Device, Executor, JobOutcome, SupernetJob, SupernetProgress
from nas.memory.calibration import PeakCalibration
from nas.run.feasibility import Feasibility, Fit
from nas.run.phases.candidates import CandidatePhase
from nas.run.phases.context import PhaseContext, SearchClock
from nas.run.phases.finalists import FinalistPhase, FirstTrainings
from nas.run.phases.scheduling import build_scheduler
from nas.run.recording import ResultRecorder
from nas.run.results_csv import canonical_results
from nas.run.time_budget import Deadlines, Phase, TimeAccount
from nas.search.keys import SpeedKey
from nas.search.recipe_tuning import AS_CONFIGURED
from nas.search.space import Architecture
from nas.search.trial import Failure, Job, Result
from nas.storage.study import Study
from nas.training.speed import EVALUATION_SECONDS, START_SECONDS, STEP_SECONDS
from tests.support.search_file import SEARCH

FULL_STEPS = 10
IDLE_BYTES = 5
SPEED = {START_SECONDS: 1.0, STEP_SECONDS: 0.5, EVALUATION_SECONDS: 2.0}
"""The measured speed of all workers."""


class Killed(BaseException):
    """Stands for `kill -9` of the driver."""


def config_with(**changes: Any) -> Config:
    values = yaml.safe_load(SEARCH)
    for path, value in changes.items():
        *sections, key = path.split("__")
        place = values
        for name in sections:
            place = place[name]
        place[key] = value
    return parse_config(values, source="test", base_directory=Path())


class SizedFeasibility:
    """Peaks by a formula; an architecture above the budget does not fit.

    Args:
        study: The record of infeasible architectures.
        budget_bytes: The memory budget of a device.
    """

    def __init__(self, study: Study, budget_bytes: int) -> None:
        self._study = study
        self._budget_bytes = budget_bytes
        self._recorded = {entry.architecture for entry in study.rejections if entry.status == "infeasible"}
        self.outgrown: set[Architecture] = set()

    def fit(self, architecture: Architecture) -> Fit | None:
        peak = peak_bytes(architecture)
        return Fit(peak, 1) if peak <= self._budget_bytes and architecture not in self.outgrown else None

    def fits(self, architecture: Architecture) -> bool:
        return self.fit(architecture) is not None

    def record_unless_fits(self, architecture: Architecture) -> bool:
        if not self.fits(architecture) and architecture not in self._recorded:
            self._recorded.add(architecture)
            self._study.reject_infeasible(architecture, "too large", peak_bytes(architecture))
        return self.fits(architecture)

    def outgrew(self, architecture: Architecture) -> None:
        self.outgrown.add(architecture)


class SizedCosts:
    """Costs by the same formula."""

    def parameter_count(self, architecture: Architecture) -> int:
        return total(architecture.values())

    def architecture_bytes(self, architecture: Architecture) -> int:
        return peak_bytes(architecture)


def peak_bytes(architecture: Architecture) -> int:
    return 10 + 3 * total(architecture.values())


def total(values: Any) -> int:
    """Return the sum of all numbers, including those of single layers and directions; words count as 0."""
    if isinstance(values, int | str):
        return 0 if isinstance(values, str) else values
    return sum(map(total, values.values() if isinstance(values, dict) else values))


def score(job: Job) -> float:
    """Return a score that depends on the job only, not on where or when it runs."""
    setting = () if job.recipe == AS_CONFIGURED else (str(job.recipe),)
    return random.Random(seed_from(job.seed, job.stage, *setting)).random()


class SimulatedExecutor(Executor):
    """Executor that ends jobs in random order, with results or failures that the caller decides.

    Args:
        slots: The number of slots of each device.
        chance: The source of the order in which jobs end.
        fate: Function that returns the failure of a job, or None for a result.
        on_end: Callback before a job ends.
        are_gpus: Whether the devices are GPUs, which can share a training.
    """

    def __init__(
        self,
        slots: Sequence[int],
        chance: random.Random,
        *,
        fate: Callable[[Job, int], Failure | None] = lambda job, grant: None,
        on_end: Callable[[], None] = lambda: None,
        are_gpus: bool = False,
    ) -> None:
        self._are_gpus = are_gpus
        self.submitted: list[tuple[Job, tuple[str, ...]]] = []
        """Every job with its devices, in the order of their starts."""
        self._slots = {f"device {index}": count for index, count in enumerate(slots)}
        self._chance = chance
        self._fate = fate
        self._on_end = on_end
        self._running: list[tuple[Job, tuple[str, ...], int]] = []
        self.most_granted = 0

    @property
    def devices(self) -> list[Device]:
        return [Device(name, count, count, self._are_gpus) for name, count in self._slots.items()]

    @property
    def running(self) -> list[Job]:
        return [job for job, _, _ in self._running]

    def lose(self, device: str) -> None:
        """Lose a node with everything that runs on it."""
        del self._slots[device]

    def stop_when(self, should_stop: Callable[[], bool]) -> None:
        pass

    def submit(self, job: Job, device: str, grant_bytes: int) -> None:
        self._submit(job, (device,), grant_bytes)

    def submit_shared(self, job: Job, devices: Sequence[str], grant_bytes: int) -> None:
        assert self._are_gpus and len(set(devices)) == len(devices) > 1
        self._submit(job, tuple(devices), grant_bytes)

    def _submit(self, job: Job, devices: tuple[str, ...], grant_bytes: int) -> None:
        for device in devices:
            assert sum(device in places for _, places, _ in self._running) < self._slots[device]
        self._running.append((job, devices, grant_bytes))
        self.submitted.append((job, devices))
        for device in devices:
            granted = sum(grant for _, places, grant in self._running if device in places)
            self.most_granted = max(self.most_granted, granted)

    def start_workers(self, device: str, count: int) -> None:
        pass

    def stop_idle_workers(self, device: str, count: int) -> None:
        pass

    def wait(self, timeout_seconds: float) -> list[JobOutcome]:
        if not self._running:
            return []
        self._on_end()
        index = self._chance.randrange(len(self._running))
        lost = [place for place, entry in enumerate(self._running) if not self._slots.keys() >= set(entry[1])]
        job, devices, grant = self._running.pop(lost[0] if lost else index)
        if lost:
            failures = tuple(
                Failure(member, "killed_externally", "node lost", "its node was lost") for member in job.members
            )
            return [JobOutcome(job, failures, process_lives=False)]
        failure = self._fate(job, grant)
        if failure is not None:
            failures = tuple(replace(failure, job=member) for member in job.members)
            return [JobOutcome(job, failures, process_lives=False)]
        results = (replace(result(member), device_count=len(devices)) for member in job.members)
        return [JobOutcome(job, tuple(results), process_lives=True)]

    def stop_running(self) -> list[JobOutcome]:
        stopped, self._running = self._running, []
        return [JobOutcome(job, (), process_lives=True) for job, _, _ in stopped]

    def train_supernet(
        self,
        job: SupernetJob,
        *,
        processes: Mapping[str, int],
        grant_bytes: int,
        should_stop: Callable[[], bool],
        on_progress: Callable[[SupernetProgress], None],
    ) -> int:
        raise AssertionError("a search without training trains no supernet")

    def close(self) -> None:
        pass


def result(job: Job) -> Result:
    return Result(
        key=job.key,
        architecture=job.architecture,
        stage=job.stage,
        score=score(job),
        metrics=SPEED if isinstance(job.key, SpeedKey) else {"accuracy": score(job)},
        step_count=job.step_count,
        supernet_steps=12,
        seed=job.seed,
        seconds=random.random(),
        predicted_peak_bytes=job.predicted_peak_bytes,
        measured_peak_bytes=random.randrange(100),
    )


def search(
    directory: Path,
    config: Config,
    executor: SimulatedExecutor,
    budget_bytes: int = 1000,
    output: TextIO | None = None,
    default: Architecture | None = None,
    variant: Architecture | None = None,
    left_out: Collection[Phase] = (),
) -> str:
    """Run candidates and finalists, or resume them; returns the canonical results.

    Args:
        directory: The run directory.
        config: The configuration of the search.
        executor: The executor of jobs.
        budget_bytes: The memory budget of a device.
        output: The receiver of the lines that the search prints.
        default: The architecture that is always a finalist; the smallest of the space by default.
        variant: What is trained completely after it, if anything.
        left_out: The phases that are left out.
    """
    reporter = LineReporter(output or io.StringIO())
    with Study(directory, config.space, name="run", config=config.as_dict()) as study:
        context = build_context(directory, config, study, executor, budget_bytes, reporter, left_out)
        queue = CandidatePhase(config.search.initial_architectures).run(context)
        first = FirstTrainings(default or config.space.smallest, variant)
        FinalistPhase(queue, first, directory, full_steps=FULL_STEPS, validation_count=10).run(context)
        return canonical_results(study)


def build_context(
    directory: Path,
    config: Config,
    study: Study,
    executor: SimulatedExecutor,
    budget_bytes: int,
    reporter: Reporter,
    left_out: Collection[Phase] = (),
) -> PhaseContext:
    """Connect the phases of a search to a simulated executor.

    Args:
        directory: The run directory.
        config: The configuration of the search.
        study: The record of all candidates.
        executor: The executor of jobs.
        budget_bytes: The memory budget of a device.
        reporter: The receiver of messages.
        left_out: The phases that are left out.
    """
    deadlines = replace(Deadlines.of_fractions(config.budget), left_out=frozenset(left_out))
    feasibility = cast(Feasibility, SizedFeasibility(study, budget_bytes))
    recorder = ResultRecorder(config, directory, study=study, calibration=PeakCalibration(), reporter=reporter)
    return PhaseContext(
        config=config,
        study=study,
        scheduler=build_scheduler(
            executor, study, recorder, feasibility, budget_bytes=budget_bytes, idle_bytes=IDLE_BYTES
        ),
        feasibility=feasibility,
        objectives=objectives_of(config.search, SizedCosts()),
        recorder=recorder,
        clock=SearchClock(TimeAccount(directory / "time.json"), deadlines, Interruption()),
        reporter=reporter,
    )
