"""The interface of all executors: submit jobs to devices, wait for their outcomes, train the supernet."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nas.search.recipe_tuning import AS_CONFIGURED, RecipeSetting
from nas.search.space import Architecture, SearchSpace
from nas.search.trial import Failure, Job, Result
from nas.training.loss_curve import LossPoint

LossReceiver = Callable[[Job, Sequence[LossPoint]], None]
"""Receives a training that is running or has just ended, and its learning curve until then, from its first point on;
may be called repeatedly with the same points."""


@dataclass(frozen=True)
class Device:
    """A device with its own memory budget: the host memory of a node, or one of its GPUs.

    Args:
        name: The name of the device, which never changes.
        slot_count: The number of jobs that may run on it at once.
        process_count: The number of its worker processes that are alive now.
        is_gpu: Whether it is a GPU.
    """

    name: str
    slot_count: int
    process_count: int
    is_gpu: bool = False


@dataclass(frozen=True)
class JobOutcome:
    """The end of a submitted job.

    Args:
        job: The job as it was submitted.
        outcomes: The outcome of each member that finished or failed; members that were stopped have none.
        process_lives: Whether its worker process can run the next job; of a training that several shared, whether all
            of them can, or none.
    """

    job: Job
    outcomes: tuple[Result | Failure, ...]
    process_lives: bool


@dataclass(frozen=True)
class EndedJob:
    """A job that has ended, and where it ran.

    Args:
        job: The job as it was submitted.
        device: The name of its device.
        slot: The number of its slot on the device, from 0.
        seconds: The time from its submission to its end.
        granted_bytes: The memory that its worker was allowed to hold.
        outcomes: The outcome of each member that finished or failed.
    """

    job: Job
    device: str
    slot: int
    seconds: float
    granted_bytes: int
    outcomes: tuple[Result | Failure, ...]


@dataclass(frozen=True)
class SupernetJob:
    """The architectures that the training of the supernet may sample.

    Args:
        feasible: The architectures that fit, among all that the training will sample; None if all of them do.
        micro_batches: The number of parts of a batch, for each architecture whose batches have to be divided.
        peak_bytes: The predicted peak of each process of the training.
        seconds_left: The seconds until the learning-rate schedule ends, from the start of the training; None if only
            the number of steps ends it. Not a time of day: clocks differ between nodes and may be set meanwhile.
        recipe: The setting of the recipe; its number of steps is that of full trainings.
        space: The part of the search space that is sampled; None for all of it.
    """

    feasible: frozenset[Architecture] | None
    micro_batches: Mapping[Architecture, int]
    peak_bytes: int
    seconds_left: float | None = None
    recipe: RecipeSetting = AS_CONFIGURED
    space: SearchSpace | None = None

    def is_feasible(self, architecture: Architecture) -> bool:
        return self.feasible is None or architecture in self.feasible

    def micro_batches_of(self, architecture: Architecture) -> int:
        return self.micro_batches.get(architecture, 1)


@dataclass(frozen=True)
class SupernetProgress:
    """Progress of the training of the supernet.

    Args:
        done: The number of finished steps.
        loss: The loss of the last step.
        points: The learning curve until then, from where the training was started or resumed.
    """

    done: int
    loss: float
    points: tuple[LossPoint, ...] = ()


class WorkerLost(Exception):
    """Raised when a process of the supernet's training has died; the message gives the reason."""


class Executor(ABC):
    """Runs jobs in the slots of devices, one job per slot."""

    @property
    @abstractmethod
    def devices(self) -> Sequence[Device]:
        """The devices that are available now; nodes of a cluster may join and leave."""

    @property
    @abstractmethod
    def running(self) -> list[Job]:
        """The jobs that were submitted and have not ended."""

    @abstractmethod
    def stop_when(self, should_stop: Callable[[], bool]) -> None:
        """Set the condition that ends a running job where the caller cannot call `stop_running` meanwhile.

        Args:
            should_stop: Called between training steps, by executors that block in `wait`.
        """

    def follow_losses(self, receive: LossReceiver) -> None:
        """Set the receiver of the learning curves of trainings; an executor that trains nothing has none to send.

        Args:
            receive: Called in `wait`, in this process: from time to time while a training runs, and before its outcome
                is returned.
        """
        del receive

    @abstractmethod
    def submit(self, job: Job, device: str, grant_bytes: int) -> None:
        """Start a job; every member gets its own outcome.

        Args:
            job: The job to run.
            device: The name of a device with a free slot.
            grant_bytes: The memory that the worker may hold; a worker that holds more is stopped.

        Raises:
            RuntimeError: If every slot of the device is taken.
        """

    def submit_shared(self, job: Job, devices: Sequence[str], grant_bytes: int) -> None:
        """Start a training that one worker of each of several devices shares; it has one outcome.

        Args:
            job: The training.
            devices: The names of at least two devices with a free slot each.
            grant_bytes: The memory that each of the workers may hold.

        Raises:
            RuntimeError: If every slot of a device is taken, or this executor has no several devices.
        """
        del grant_bytes
        raise RuntimeError(f"{job.key.name}: cannot be shared by {', '.join(devices)}; expected one device")

    @abstractmethod
    def start_workers(self, device: str, count: int) -> None:
        """Start worker processes of a device before there are jobs for them."""

    @abstractmethod
    def stop_idle_workers(self, device: str, count: int) -> None:
        """End worker processes of a device that have no job; they are started again when they are needed."""

    @abstractmethod
    def wait(self, timeout_seconds: float) -> list[JobOutcome]:
        """Return the jobs that have ended, after at most the given time; possibly none."""

    @abstractmethod
    def stop_running(self) -> list[JobOutcome]:
        """Stop all running jobs and return their outcomes.

        A job ends at its next step, or together with its worker if that takes longer than a few seconds.
        """

    @abstractmethod
    def train_supernet(
        self,
        job: SupernetJob,
        *,
        processes: Mapping[str, int],
        grant_bytes: int,
        should_stop: Callable[[], bool],
        on_progress: Callable[[SupernetProgress], None],
    ) -> int:
        """Train the supernet, from its checkpoint if one exists, and save it; no other job may run at the same time.

        Args:
            job: The architectures that may be sampled.
            processes: The number of worker processes of each device that share the work, by the name of the device.
            grant_bytes: The memory that each of them may hold.
            should_stop: Whether training ends early; it is saved.
            on_progress: Callback that receives the progress from time to time.

        Returns:
            The number of steps done, those of earlier calls included.

        Raises:
            NasError: If the supernet cannot be trained.
            WorkerLost: If one of the processes died; the next call resumes from the last checkpoint.
        """

    @abstractmethod
    def close(self) -> None:
        """Release everything that this executor has started."""
