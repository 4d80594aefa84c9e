"""What becomes of a job that did not finish: put back, tried alone, recorded, or taken for a fault of all."""

from collections.abc import Callable
from typing import Literal

from nas.common.errors import ExecutionError, TrainingError
from nas.search.keys import ModelKey
from nas.search.trial import Failure, Job, Stage

SAME_FAILURES = 3
"""Failures in a row with one cause, and nothing that got through between them, stop the search."""

WORKER_DEATHS = 3
"""A candidate that crashes its worker this often is recorded as failed."""

Verdict = Literal["put back", "try alone", "rejected"]


class FailurePolicy:
    """Judges failures, and holds those that end a candidate until others have got through.

    Args:
        was_alone: Whether a job ran out of memory before, so that it had a whole device to itself this time.
        try_alone: Remembers, for good, that it did.
        record: Makes a failure durable.
        same_failures: Failures in a row with one cause that stop everything.
    """

    def __init__(
        self,
        *,
        was_alone: Callable[[Job], bool],
        try_alone: Callable[[Job], None],
        record: Callable[[Failure], None],
        same_failures: int = SAME_FAILURES,
    ) -> None:
        self._same_failures = same_failures
        self._was_alone = was_alone
        self._try_alone = try_alone
        self._record = record
        self._crashes: dict[tuple[ModelKey, Stage], int] = {}
        self._pending: list[Failure] = []

    def judge(self, failure: Failure) -> Verdict:
        """Decide.

        Raises:
            TrainingError: If the same thing happens to one candidate after the other, so that the cause lies outside
                them; they are not recorded then, and a resume tries them again.
            ExecutionError: If the cause certainly lies outside it: a full disk, a damaged file.
        """
        if failure.kind == "environment":
            raise ExecutionError(failure.reason)
        if failure.job.companions or failure.kind == "killed_externally":
            return "put back"
        if failure.kind == "memory":
            if not self._was_alone(failure.job):
                self._try_alone(failure.job)
                return "try alone"
            self._record(failure)
            return "rejected"
        if failure.kind == "crash":
            key = failure.job.identity
            self._crashes[key] = self._crashes.get(key, 0) + 1
            if self._crashes[key] < WORKER_DEATHS:
                return "put back"
        self._pending.append(failure)
        last = self._pending[-self._same_failures :]
        if len(last) == self._same_failures and len({entry.cause for entry in last}) == 1:
            raise TrainingError(f"{self._same_failures} candidates in a row failed with one cause: {failure.reason}")
        return "rejected"

    def settle(self) -> None:
        """Others have got through, or the phase has ended: the pending failures were the candidates' own."""
        while self._pending:
            self._record(self._pending.pop(0))
