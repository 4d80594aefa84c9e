"""Why Ray workers die, distinguished by their failures."""

import ctypes
import os
import signal
import sys
from typing import Any

import pytest

from nas.execution.placement import Placement
from nas.execution.ray.executor import RayExecutor
from nas.execution.worker import CandidateWorker
from nas.execution.worker_setup import WorkerSetup
from nas.search.trial import Failure, Job, Result
from tests.support.factories import make_job
from tests.support.jobs import submit, wait_for_outcomes


class Misbehaving(CandidateWorker):
    """Ends its process in the way that the number of the trial selects."""

    def run(self, job: Job, **rest: Any) -> list[Result]:
        if job.trial == 11:
            ctypes.string_at(0)
        if job.trial == 12:
            os._exit(5)
        if job.trial == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        if job.trial == 14:
            sys.exit(6)
        if job.trial == 15:
            raise MemoryError("no more")
        return super().run(job, **rest)


@pytest.mark.slow  # every death costs the start of another worker
def test_cause_of_death_is_reported_and_the_next_job_gets_another_worker(setup: WorkerSetup) -> None:
    placement = Placement(worker_count=1, most_by_memory=1, threads=1)
    executor = RayExecutor(setup, placement=placement, factory=Misbehaving)
    expected = {11: "crash", 12: "crash", 13: "killed_externally", 14: "error", 15: "memory"}
    try:
        for trial, kind in expected.items():
            submit(executor, make_job(trial=trial))
            (failure,) = wait_for_outcomes(executor, 1)
            assert isinstance(failure, Failure) and failure.kind == kind, failure
            submit(executor, make_job(trial=1))
            assert isinstance(wait_for_outcomes(executor, 1)[0], Result)
    finally:
        executor.close()
