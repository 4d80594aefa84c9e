"""Runs jobs in this very process, one after another: for tests, debugging and machines without Ray."""

from nas.errors import NasError
from nas.execution.base import Executor
from nas.execution.worker import CandidateWorker, WorkerSetup
from nas.results import Failure, Job, Result


class SerialExecutor(Executor):
    """One slot; a job runs when it is waited for."""

    def __init__(self, setup: WorkerSetup) -> None:
        self._worker = CandidateWorker(setup)
        self._job: Job | None = None

    @property
    def slot_count(self) -> int:
        return 1

    @property
    def running(self) -> list[Job]:
        return [] if self._job is None else [self._job]

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
            return [self._worker.run(job)]
        except NasError as error:
            return [Failure(job, str(error))]

    def stop_running(self) -> list[Result | Failure]:
        self._job = None
        return []

    def close(self) -> None:
        self._job = None
