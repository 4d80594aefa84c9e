"""What every executor offers: submit jobs, wait for what came of them."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from nas.results import Failure, Job, Result


class Executor(ABC):
    """Runs jobs in a fixed number of slots, one job a slot."""

    @property
    @abstractmethod
    def slot_count(self) -> int:
        """How many jobs may run at once."""

    @property
    @abstractmethod
    def running(self) -> list[Job]:
        """Jobs that were submitted and have not come back."""

    @abstractmethod
    def stop_when(self, should_stop: Callable[[], bool]) -> None:
        """From now on end jobs for which this becomes true, where nobody is free to call `stop_running`."""

    @abstractmethod
    def submit(self, job: Job) -> None:
        """Start a job; every one of its members comes back as an outcome of its own.

        Raises:
            RuntimeError: If every slot is taken.
        """

    @abstractmethod
    def wait(self, timeout_seconds: float) -> list[Result | Failure]:
        """Whatever has come back, at the latest after the given time; possibly nothing."""

    @abstractmethod
    def stop_running(self) -> list[Result | Failure]:
        """End all running jobs at their next step; returns what some came to nevertheless, the others have none."""

    @abstractmethod
    def close(self) -> None:
        """Give back everything."""
