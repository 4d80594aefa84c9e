"""Runs jobs in this very process, one after another: for tests, debugging and machines without Ray."""

from collections.abc import Callable, Mapping, Sequence

from nas.common.errors import TrainingError
from nas.execution.base import Device, Executor, JobOutcome, SupernetJob, SupernetProgress
from nas.execution.worker import CandidateWorker, GrantExceeded, WorkerSetup
from nas.memory.measurement import private_bytes
from nas.search.trial import Job
from nas.training.distributed import SingleProcessGroup
from nas.training.stopping import StopRequested

HERE = "this process"


class SerialExecutor(Executor):
    """One device with one slot; a job runs when it is waited for.

    Args:
        setup: Of its worker.
    """

    def __init__(self, setup: WorkerSetup) -> None:
        # What this process holds as a driver belongs to no budget.
        self._worker = CandidateWorker(setup, base_bytes=private_bytes())
        self._job: tuple[Job, int] | None = None
        self._should_stop: Callable[[], bool] = lambda: False

    @property
    def devices(self) -> Sequence[Device]:
        return [Device(HERE, slot_count=1, process_count=1)]

    @property
    def running(self) -> list[Job]:
        return [] if self._job is None else [self._job[0]]

    def stop_when(self, should_stop: Callable[[], bool]) -> None:
        self._should_stop = should_stop

    def submit(self, job: Job, device: str, grant_bytes: int) -> None:
        if self._job is not None:
            raise RuntimeError(f"the one slot of {device} is taken")
        self._job = job, grant_bytes

    def start_workers(self, device: str, count: int) -> None:
        del device, count  # this process is there

    def end_idle(self, device: str, count: int) -> None:
        raise RuntimeError(f"{device} has no {count} idle processes")

    def wait(self, timeout_seconds: float) -> list[JobOutcome]:
        del timeout_seconds  # a job in this process cannot be waited for less than it takes
        if self._job is None:
            return []
        (job, grant_bytes), self._job = self._job, None
        try:
            outcomes = self._worker.outcomes(job, limit_bytes=grant_bytes, should_stop=self._should_stop)
        except StopRequested:
            outcomes = []
        return [JobOutcome(job, tuple(outcomes), process_lives=True)]

    def stop_running(self) -> list[JobOutcome]:
        if self._job is None:
            return []
        (job, _), self._job = self._job, None
        return [JobOutcome(job, (), process_lives=True)]

    def train_supernet(
        self,
        order: SupernetJob,
        *,
        processes: Mapping[str, int],
        grant_bytes: int,
        should_stop: Callable[[], bool],
        on_progress: Callable[[SupernetProgress], None],
    ) -> int:
        del processes  # this one
        try:
            return self._worker.train_supernet(
                order,
                SingleProcessGroup(),
                limit_bytes=grant_bytes,
                should_stop=should_stop,
                on_progress=on_progress,
            )
        except GrantExceeded as error:
            raise TrainingError(f"the supernet could not be trained: out of memory: {error}") from error

    def close(self) -> None:
        self._job = None
