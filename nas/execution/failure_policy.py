"""Decide whether a job that failed is requeued, tried alone, or rejected, and whether the search has to stop."""

from collections.abc import Callable
from typing import Literal

from nas.common.errors import ExecutionError, TrainingError
from nas.search.keys import ModelKey
from nas.search.trial import Failure, Job, Stage

SAME_FAILURES = 3
"""The number of consecutive failures with one cause, without a result in between, that stops the search."""

WORKER_CRASHES = 3
"""The number of crashed workers after which a candidate is recorded as failed."""

Verdict = Literal["requeued", "retry_alone", "rejected"]
"""The decision on a failed job: try it again, try it once more with a whole device, or record it as failed."""


class FailurePolicy:
    """Judges failures, and delays recording those that end a candidate until another job has succeeded.

    Args:
        was_alone: Whether a job ran out of memory before, so that it had a whole device this time.
        try_alone: Callback that stores durably that a job needs a whole device.
        record: Callback that makes a failure durable.
        same_failures: The number of consecutive failures with one cause that stops the search.
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
        """Return the verdict on a failure.

        Raises:
            TrainingError: If consecutive candidates fail with one cause, which therefore lies outside them. They are
                not recorded, so that a resumed search tries them again.
            ExecutionError: If the cause certainly lies outside the candidate: a full disk, a damaged file.
        """
        if failure.kind == "environment":
            raise ExecutionError(failure.reason)
        if failure.job.companions or failure.kind == "killed_externally":
            return "requeued"
        if failure.kind == "memory":
            if not self._was_alone(failure.job):
                self._try_alone(failure.job)
                return "retry_alone"
            self._record(failure)
            return "rejected"
        if failure.kind == "crash":
            identity = failure.job.identity
            self._crashes[identity] = self._crashes.get(identity, 0) + 1
            if self._crashes[identity] < WORKER_CRASHES:
                return "requeued"
        self._pending.append(failure)
        last = self._pending[-self._same_failures :]
        if len(last) == self._same_failures and len({entry.cause for entry in last}) == 1:
            raise TrainingError(
                f"training: {self._same_failures} consecutive candidates failed with the same cause: {failure.reason}"
            )
        return "rejected"

    def settle(self) -> None:
        """Record the pending failures: another job has succeeded, so the candidates themselves caused them."""
        while self._pending:
            self._record(self._pending.pop(0))
