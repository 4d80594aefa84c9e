"""Connect the scheduler of a search to its study and its recorder."""

import time

from nas.execution.base import Executor
from nas.execution.failure_policy import FailurePolicy
from nas.execution.scheduler import JobScheduler
from nas.run.feasibility import Feasibility
from nas.run.recording import ResultRecorder
from nas.storage.study import Study


def build_scheduler(
    executor: Executor,
    study: Study,
    recorder: ResultRecorder,
    feasibility: Feasibility,
    *,
    budget_bytes: int,
    idle_bytes: int,
) -> JobScheduler:
    """Connect the scheduler of a search to its study and its recorder.

    Args:
        executor: The executor of jobs.
        study: The record of candidates that have run out of memory.
        recorder: The recorder of results and failures.
        feasibility: The rule for what fits the memory budget.
        budget_bytes: The memory budget of each device.
        idle_bytes: The memory of a worker process without a job.
    """
    policy = FailurePolicy(
        was_alone=study.was_out_of_memory,
        try_alone=study.mark_out_of_memory,
        record=lambda failure: recorder.record_failure(failure, feasibility),
    )
    return JobScheduler(
        executor=executor,
        budget_bytes=budget_bytes,
        idle_bytes=idle_bytes,
        policy=policy,
        runs_alone=study.was_out_of_memory,
        take=recorder.take,
        show=recorder.show_failure,
        now=time.monotonic,
    )
