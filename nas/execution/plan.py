"""The interface of what the scheduler consumes: jobs that are due, and what came of them."""

from abc import ABC, abstractmethod

from nas.search.trial import Failure, Job, Result


class Plan(ABC):
    """One phase of a search."""

    @abstractmethod
    def next_jobs(self) -> list[Job]:
        """Jobs that can be started now; nothing if there are none, at least until others have ended."""

    @abstractmethod
    def took(self, result: Result) -> None:
        """A job has ended with a result, which is durable."""

    @abstractmethod
    def rejected(self, failure: Failure) -> None:
        """A job has ended without a result and is not to be tried again."""

    @abstractmethod
    def put_back(self, job: Job) -> None:
        """A job was stopped, or its worker died: it is to be tried again."""
