"""What every executor offers: submit jobs to devices, wait for what came of them, train the supernet."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nas.search.space import Architecture
from nas.search.trial import Failure, Job, Result


@dataclass(frozen=True)
class Device:
    """A place with a memory budget of its own: the host memory of a node, or one of its GPUs.

    Args:
        name: The same as long as it is there.
        slot_count: Jobs that may run on it at once.
        process_count: Worker processes that are alive on it now.
    """

    name: str
    slot_count: int
    process_count: int


@dataclass(frozen=True)
class JobOutcome:
    """What a job came to.

    Args:
        job: As it was submitted.
        outcomes: Of each of its members that came to something; nothing where it was stopped.
        process_lives: Whether its worker is there for the next job.
    """

    job: Job
    outcomes: tuple[Result | Failure, ...]
    process_lives: bool


@dataclass(frozen=True)
class SupernetJob:
    """Which architectures the supernet's training may sample.

    Args:
        feasible: Those that fit, of all that will be asked for; None if all do.
        micro_batches: Parts that the batches of some are cut into; of the others none are cut.
        peak_bytes: Predicted for each process that shares the work.
        deadline: Seconds since the epoch, on the clock of the first process, which is the driver's neighbour: by then
            the schedule comes to its end. None where there is no hurry.
    """

    feasible: frozenset[Architecture] | None
    micro_batches: Mapping[Architecture, int]
    peak_bytes: int
    deadline: float | None = None

    def is_feasible(self, architecture: Architecture) -> bool:
        return self.feasible is None or architecture in self.feasible

    def parts(self, architecture: Architecture) -> int:
        return self.micro_batches.get(architecture, 1)


@dataclass(frozen=True)
class SupernetProgress:
    """How far the supernet's training is.

    Args:
        done: Steps.
        loss: Of the last one.
    """

    done: int
    loss: float


class WorkerLost(Exception):
    """A process that worked with others has died; says why."""


class Executor(ABC):
    """Runs jobs in the slots of devices, one job a slot."""

    @property
    @abstractmethod
    def devices(self) -> Sequence[Device]:
        """Those that are there now; nodes of a cluster may come and go."""

    @property
    @abstractmethod
    def running(self) -> list[Job]:
        """Jobs that were submitted and have not come back."""

    @abstractmethod
    def stop_when(self, should_stop: Callable[[], bool]) -> None:
        """From now on end jobs for which this becomes true, where nobody is free to call `stop_running`."""

    @abstractmethod
    def submit(self, job: Job, device: str, grant_bytes: int) -> None:
        """Start a job; every one of its members comes back as an outcome of its own.

        Args:
            job: What to do.
            device: One with a free slot.
            grant_bytes: What its worker may hold; it is stopped when it holds more.

        Raises:
            RuntimeError: If every slot of the device is taken.
        """

    @abstractmethod
    def start_workers(self, device: str, count: int) -> None:
        """Start so many of a device's worker processes before there are jobs for them."""

    @abstractmethod
    def end_idle(self, device: str, count: int) -> None:
        """End so many of a device's worker processes that have no job; they are started again when they are needed."""

    @abstractmethod
    def wait(self, timeout_seconds: float) -> list[JobOutcome]:
        """Whatever has come back, at the latest after the given time; possibly nothing."""

    @abstractmethod
    def stop_running(self) -> list[JobOutcome]:
        """End all running jobs at their next step, or with their workers where that takes seconds; all come back."""

    @abstractmethod
    def train_supernet(
        self,
        order: SupernetJob,
        *,
        processes: Mapping[str, int],
        grant_bytes: int,
        should_stop: Callable[[], bool],
        on_progress: Callable[[SupernetProgress], None],
    ) -> int:
        """Train the supernet, from its checkpoint if there is one, and save it; no job may run.

        Args:
            order: What may be sampled.
            processes: How many of each device's worker processes share the work, by its name.
            grant_bytes: What each of them may hold.
            should_stop: Training then ends early, saved.
            on_progress: Told now and then.

        Returns:
            Steps done in all.

        Raises:
            NasError: If it cannot be trained.
            WorkerLost: If one of the processes died; called again, it goes on from the last checkpoint.
        """

    @abstractmethod
    def close(self) -> None:
        """Give back everything that was started here."""
