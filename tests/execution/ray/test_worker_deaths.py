"""What Ray workers die of, told apart."""

import ctypes
import os
import signal
import sys
from typing import Any

from nas.execution.placement import Placement
from nas.execution.ray.executor import RayExecutor
from nas.execution.worker import CandidateWorker
from nas.execution.worker_setup import WorkerSetup
from nas.search.trial import Failure, Job, Result
from tests.support.jobs import job, outcomes, submit


class Misbehaving(CandidateWorker):
    """Does to its process what the number of the trial says, and nothing to that of the others."""

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


def test_what_a_worker_died_of_is_told_and_the_next_job_finds_another(setup: WorkerSetup) -> None:
    placement = Placement(worker_count=1, most_by_memory=1, threads=1)
    executor = RayExecutor(setup, placement=placement, factory=Misbehaving)
    expected = {11: "crash", 12: "crash", 13: "killed_externally", 14: "error", 15: "memory"}
    try:
        for trial, kind in expected.items():
            submit(executor, job(trial))
            (failure,) = outcomes(executor, 1)
            assert isinstance(failure, Failure) and failure.kind == kind, failure
            submit(executor, job(1))
            assert isinstance(outcomes(executor, 1)[0], Result)
    finally:
        executor.close()
