"""Jobs for executors, and what comes of them."""

import time

from nas.execution.base import Executor
from nas.search.space import Architecture
from nas.search.trial import Failure, Job, Result, Stage
from tests.support.factories import ARCHITECTURE, make_job

GRANT_BYTES = 4 * 2**30


def job(trial: int, stage: Stage = "one_shot", steps: int = 0, architecture: Architecture = ARCHITECTURE) -> Job:
    return make_job(trial=trial, architecture=architecture, stage=stage, step_count=steps)


def submit(executor: Executor, job: Job, grant_bytes: int = GRANT_BYTES) -> None:
    executor.submit(job, executor.devices[0].name, grant_bytes)


def slot_count(executor: Executor) -> int:
    return sum(device.slot_count for device in executor.devices)


def outcomes(executor: Executor, count: int) -> list[Result | Failure]:
    found: list[Result | Failure] = []
    deadline = time.monotonic() + 120
    while len(found) < count and time.monotonic() < deadline:
        found.extend(outcome for ended in executor.wait(1.0) for outcome in ended.outcomes)
    return found
