"""Runs jobs in long-lived Ray actors, one a slot. The only module that imports ray."""

import logging
import os
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayActorError

from nas.execution.base import Executor
from nas.execution.worker import CandidateWorker, WorkerSetup
from nas.results import Failure, Job, Result
from nas.training import Stopped

_STOP_SECONDS = 10.0


class _Actor:
    """One worker process; `stop` is served while `run` is under way."""

    def __init__(self, setup: WorkerSetup) -> None:
        self._worker = CandidateWorker(setup)

    def run(self, job: Job) -> list[Result | Failure]:
        """What the job's members came to; nothing where it was stopped."""
        try:
            return self._worker.outcomes(job)
        except Stopped:
            return []

    def stop(self) -> None:
        self._worker.stop()


class RayExecutor(Executor):
    """Actors on a private local Ray, which is started here and shut down by `close`.

    A worker that dies is replaced; its job comes back as a failure that says so, and whoever submitted it decides.

    Args:
        setup: For every worker.
        worker_count: Slots.
    """

    def __init__(self, setup: WorkerSetup, worker_count: int) -> None:
        self._setup = setup
        # Threads are set before torch is imported in a worker; Ray's usage report and dashboard are not wanted.
        environment = {name: str(setup.thread_count) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        # One arena for all threads of a worker: the C library gives no other one's memory back between jobs.
        environment["MALLOC_ARENA_MAX"] = "1"
        environment["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = "128"  # programs of 0.6 MB; by default 1,024 of them
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        ray.init(
            address="local",
            num_cpus=worker_count,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": environment},
            object_store_memory=100 * 2**20,  # results are small; features and weights are memory-mapped files
        )
        actor: Any = ray.remote(_Actor)
        self._actor_class = actor.options(num_cpus=1, max_restarts=0, max_task_retries=0, max_concurrency=2)
        self._idle: list[Any] = [self._new_actor() for _ in range(worker_count)]
        self._slot_count = worker_count
        self._under_way: dict[Any, tuple[Job, Any]] = {}

    def _new_actor(self) -> Any:
        return self._actor_class.remote(self._setup)

    @property
    def slot_count(self) -> int:
        return self._slot_count

    @property
    def running(self) -> list[Job]:
        return [job for job, _ in self._under_way.values()]

    def stop_when(self, should_stop: Callable[[], bool]) -> None:
        del should_stop  # the driver is free to look at the clock itself and to call stop_running

    def submit(self, job: Job) -> None:
        if not self._idle:
            raise RuntimeError(f"all {self._slot_count} slots are taken")
        actor = self._idle.pop()
        self._under_way[actor.run.remote(job)] = (job, actor)

    def wait(self, timeout_seconds: float) -> list[Result | Failure]:
        if not self._under_way:
            return []
        ready, _ = ray.wait(list(self._under_way), num_returns=1, timeout=timeout_seconds)
        return [outcome for reference in ready for outcome in self._collect(reference)]

    def stop_running(self) -> list[Result | Failure]:
        if not self._under_way:
            return []
        for _, actor in self._under_way.values():
            actor.stop.remote()
        ready, deaf = ray.wait(list(self._under_way), num_returns=len(self._under_way), timeout=_STOP_SECONDS)
        for reference in deaf:
            _, actor = self._under_way.pop(reference)
            ray.kill(actor)
            self._idle.append(self._new_actor())
        return [outcome for reference in ready for outcome in self._collect(reference)]

    def _collect(self, reference: Any) -> list[Result | Failure]:
        job, actor = self._under_way.pop(reference)
        try:
            outcomes: list[Result | Failure] = ray.get(reference)
        except RayActorError as error:
            self._idle.append(self._new_actor())
            reason = f"its worker died: {' '.join(str(error).split())[:300]}"
            return [Failure(member, "worker died", reason, worker_died=True) for member in job.members]
        self._idle.append(actor)
        return outcomes

    def close(self) -> None:
        ray.shutdown()
