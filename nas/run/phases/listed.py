"""Plan a fixed list of trainings."""

from collections.abc import Sequence

from nas.execution.plan import Plan
from nas.search.trial import Failure, Job, Result


class ListedPlan(Plan):
    """A fixed list of trainings that are not candidates of the search.

    Args:
        jobs: The trainings.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._waiting = list(jobs)

    def next_jobs(self) -> list[Job]:
        jobs, self._waiting = self._waiting[:1], self._waiting[1:]
        return jobs

    def finished(self, result: Result) -> None:
        del result  # the recorder has stored it

    def rejected(self, failure: Failure) -> None:
        del failure  # the comparison does without it

    def requeue(self, job: Job) -> None:
        self._waiting.append(job)
