"""Run jobs in this process, one after the other: for tests, debugging and machines without Ray."""

from collections.abc import Callable, Mapping, Sequence

from nas.common.errors import TrainingError
from nas.execution.base import Device, Executor, JobOutcome, LossReceiver, SupernetJob, SupernetProgress
from nas.execution.grant import GrantExceeded
from nas.execution.worker import CandidateWorker
from nas.execution.worker_setup import WorkerSetup
from nas.memory.measurement import private_bytes
from nas.search.trial import Job
from nas.training.distributed import SingleProcessGroup
from nas.training.loss_curve import LossPoint
from nas.training.stopping import StopRequested

DEVICE = "this process"


class SerialExecutor(Executor):
    """One device with one slot; a submitted job runs inside `wait`.

    Args:
        setup: The setup of the worker.
    """

    def __init__(self, setup: WorkerSetup) -> None:
        # The memory that this process holds as the driver belongs to no budget.
        self._worker = CandidateWorker(setup, base_bytes=private_bytes())
        self._job: tuple[Job, int] | None = None
        self._should_stop: Callable[[], bool] = lambda: False
        self._receive_losses: LossReceiver = lambda job, points: None

    @property
    def devices(self) -> Sequence[Device]:
        return [Device(DEVICE, slot_count=1, process_count=1)]

    @property
    def running(self) -> list[Job]:
        return [] if self._job is None else [self._job[0]]

    def stop_when(self, should_stop: Callable[[], bool]) -> None:
        self._should_stop = should_stop

    def follow_losses(self, receive: LossReceiver) -> None:
        self._receive_losses = receive

    def submit(self, job: Job, device: str, grant_bytes: int) -> None:
        if self._job is not None:
            raise RuntimeError(f"the one slot of {device} is taken")
        self._job = job, grant_bytes

    def start_workers(self, device: str, count: int) -> None:
        del device, count  # this process already runs

    def stop_idle_workers(self, device: str, count: int) -> None:
        raise RuntimeError(f"{device} has no {count} idle processes")

    def wait(self, timeout_seconds: float) -> list[JobOutcome]:
        del timeout_seconds  # the job runs in this call and cannot be left early
        if self._job is None:
            return []
        (job, grant_bytes), self._job = self._job, None
        sent: tuple[LossPoint, ...] = ()

        def send_losses() -> None:
            nonlocal sent
            curve = self._worker.curve
            if curve is not None and curve.identity == job.identity and curve.points != sent:
                sent = curve.points
                self._receive_losses(job, sent)

        def should_stop() -> bool:
            send_losses()
            return self._should_stop()

        try:
            outcomes = self._worker.outcomes(job, limit_bytes=grant_bytes, should_stop=should_stop)
            send_losses()
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
        job: SupernetJob,
        *,
        processes: Mapping[str, int],
        grant_bytes: int,
        should_stop: Callable[[], bool],
        on_progress: Callable[[SupernetProgress], None],
    ) -> int:
        del processes  # training runs in this process
        try:
            return self._worker.train_supernet(
                job,
                SingleProcessGroup(),
                limit_bytes=grant_bytes,
                should_stop=should_stop,
                on_progress=on_progress,
            )
        except GrantExceeded as error:
            raise TrainingError(f"supernet: out of memory: {error}") from error

    def close(self) -> None:
        self._job = None
