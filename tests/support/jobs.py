"""Submit jobs to executors and wait for their outcomes."""

import time
from collections.abc import Callable

from nas.execution.base import Executor
from nas.search.trial import Failure, Job, Result

GRANT_BYTES = 4 * 2**30
_LIMIT_SECONDS = 120.0


def submit(executor: Executor, job: Job, grant_bytes: int = GRANT_BYTES) -> None:
    """Submit a job to the first device."""
    executor.submit(job, executor.devices[0].name, grant_bytes)


def slot_count(executor: Executor) -> int:
    """Return the number of slots of all devices."""
    return sum(device.slot_count for device in executor.devices)


def wait_for_outcomes(executor: Executor, count: int) -> list[Result | Failure]:
    """Wait until a number of jobs have an outcome, for at most two minutes."""
    found: list[Result | Failure] = []
    deadline = time.monotonic() + _LIMIT_SECONDS
    while len(found) < count and time.monotonic() < deadline:
        found.extend(outcome for ended in executor.wait(1.0) for outcome in ended.outcomes)
    return found


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds.

    Raises:
        TimeoutError: If it does not hold within two minutes.
    """
    deadline = time.monotonic() + _LIMIT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the condition did not become true")
        time.sleep(0.05)
