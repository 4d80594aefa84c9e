"""The interface that the scheduler consumes: a plan supplies jobs and receives their outcomes."""

from abc import ABC, abstractmethod

from nas.search.trial import Failure, Job, Result


class Plan(ABC):
    """One phase of a search."""

    @abstractmethod
    def next_jobs(self) -> list[Job]:
        """Return jobs that can start now; an empty list if none can before a running job ends."""

    @abstractmethod
    def finished(self, result: Result) -> None:
        """Receive the result of a job, which is already durable."""

    @abstractmethod
    def rejected(self, failure: Failure) -> None:
        """Receive the failure of a job that is not to be tried again."""

    @abstractmethod
    def requeue(self, job: Job) -> None:
        """Take back a job that was stopped or lost its worker, and is to be tried again."""
