"""Runs jobs in this very process, one after another: for tests, debugging and machines without Ray."""

from collections.abc import Callable

from nas.execution.base import Executor
from nas.execution.worker import CandidateWorker, WorkerSetup
from nas.results import Failure, Job, Result
from nas.training import Stopped


class SerialExecutor(Executor):
    """One slot; a job runs when it is waited for."""

    def __init__(self, setup: WorkerSetup) -> None:
        self._worker = CandidateWorker(setup)
        self._job: Job | None = None
        self._should_stop: Callable[[], bool] = lambda: False

    @property
    def slot_count(self) -> int:
        return 1

    @property
    def running(self) -> list[Job]:
        return [] if self._job is None else [self._job]

    def stop_when(self, should_stop: Callable[[], bool]) -> None:
        self._should_stop = should_stop

    def submit(self, job: Job) -> None:
        if self._job is not None:
            raise RuntimeError("the one slot is taken")
        self._job = job

    def wait(self, timeout_seconds: float) -> list[Result | Failure]:
        del timeout_seconds  # a job in this process cannot be waited for less than it takes
        if self._job is None:
            return []
        job, self._job = self._job, None
        try:
            return self._worker.outcomes(job, self._should_stop)
        except Stopped:
            return []

    def stop_running(self) -> list[Result | Failure]:
        self._job = None
        return []

    def close(self) -> None:
        self._job = None
