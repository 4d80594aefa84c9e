"""A worker process as a Ray actor: it runs jobs, trains the supernet, and can be stopped during either."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.common.fast_imports import import_frameworks

import_frameworks()  # a worker process starts here; the modules below import torch

from nas.execution.base import SupernetJob, SupernetProgress
from nas.execution.worker import CandidateWorker
from nas.execution.worker_exit import ExitRecord
from nas.execution.worker_setup import WorkerSetup
from nas.search.keys import ModelKey
from nas.search.trial import Failure, Job, Result, Stage
from nas.training.distributed import GroupBroken, distributed_group, free_address
from nas.training.loss_curve import LossPoint
from nas.training.stopping import StopRequested

_GROUP_SECONDS = 300.0
"""The time without a message after which a process of a group counts as lost."""

WorkerFactory = Callable[[WorkerSetup, Callable[[int, int], None]], CandidateWorker]


class WorkerActor:
    """One worker process; it serves `stop`, `losses` and `progress` while `run` is active.

    Args:
        factory: Creates the worker when it is first needed.
        setup: The setup of the worker.
        record_path: Path of the file in which the process records why it dies.
    """

    def __init__(self, factory: WorkerFactory, setup: WorkerSetup, record_path: Path) -> None:
        self._factory = factory
        self._setup = setup
        self._record = ExitRecord(record_path)
        self._record.begin()
        # One thread does all computing: Ray calls from several, and oneDNN and MKL keep working memory for each.
        self._computing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="computing")
        self._built: CandidateWorker | None = None
        self._progress = SupernetProgress(0, 0.0)

    def prepare(self) -> None:
        """Load what every job needs, before the first job arrives."""
        self._computing.submit(self._worker).result()

    def _worker(self) -> CandidateWorker:
        if self._built is None:
            self._built = self._factory(self._setup, self._record.end_for_memory)
        return self._built

    def run(self, job: Job, grant_bytes: int) -> tuple[Result | Failure, ...]:
        """Return the outcomes of the job's members; none if the job was stopped."""
        return self._computing.submit(self._run, job, grant_bytes).result()

    def run_shared(self, job: Job, grant_bytes: int, **place: Any) -> tuple[Result | Failure, ...]:
        """Do this process's part of a training; returns the outcome in the first process, and none in the others.

        Args:
            job: The training.
            grant_bytes: The memory that this process may hold.
            place: The place of this process in the group: `rank`, `size`, `address` and `backend`.
        """
        return self._computing.submit(self._run, job, grant_bytes, place).result()

    def _run(self, job: Job, grant_bytes: int, place: Mapping[str, Any] | None = None) -> tuple[Result | Failure, ...]:
        try:
            worker = self._worker()  # first: creating it takes seconds in which the other processes would wait
            if place is None:
                return tuple(worker.outcomes(job, limit_bytes=grant_bytes))
            with distributed_group(**place, timeout_seconds=_GROUP_SECONDS) as group:
                return tuple(worker.outcomes(job, limit_bytes=grant_bytes, group=group))
        except GroupBroken:
            raise
        except StopRequested:
            return ()
        except (Exception, SystemExit) as error:  # the worker could not be created, or its code calls sys.exit
            return tuple(Failure.of(member, error, 0) for member in job.members)

    def training_files(self, key: ModelKey, stage: Stage) -> dict[str, NDArray[np.uint8]]:
        """Return the files that a short or full training has written, by their paths in the run directory."""
        files = self._setup.training_files(key, stage)
        return {str(path.relative_to(self._setup.run_directory)): np.fromfile(path, dtype=np.uint8) for path in files}

    def losses(self, key: ModelKey, stage: Stage) -> tuple[LossPoint, ...]:
        """Return the learning curve of a training until now; empty if it is not the last one."""
        curve = None if self._built is None else self._built.curve
        return () if curve is None or curve.identity != (key, stage) else curve.points

    def stop(self) -> None:
        """Stop the running job at its next step."""
        if self._built is not None:
            self._built.stop()

    def group_address(self, host: str | None) -> str:
        """Return the address at which the processes of a group meet.

        Args:
            host: The address at which other nodes reach this one; None if the group is on this node only.
        """
        return free_address() if host is None else free_address(host)

    def train_supernet(self, job: SupernetJob, grant_bytes: int, **place: Any) -> int:
        """Do this process's part of the training of the supernet; returns the number of steps done.

        Args:
            job: The architectures that may be sampled.
            grant_bytes: The memory that this process may hold.
            place: The place of this process in the group: `rank`, `size`, `address` and `backend`.
        """
        return self._computing.submit(self._train_supernet, job, grant_bytes, place).result()

    def _train_supernet(self, job: SupernetJob, grant_bytes: int, place: Mapping[str, Any]) -> int:
        worker = self._worker()  # first: creating it takes seconds in which the other processes would wait
        with distributed_group(**place, timeout_seconds=_GROUP_SECONDS) as group:
            return worker.train_supernet(job, group, limit_bytes=grant_bytes, on_progress=self._set_progress)

    def _set_progress(self, progress: SupernetProgress) -> None:
        self._progress = progress

    def progress(self) -> SupernetProgress:
        """Return the progress of the supernet's training."""
        return self._progress

    def supernet(self) -> NDArray[np.uint8]:
        """Return the content of the file of the trained supernet."""
        return np.fromfile(self._setup.supernet_path, dtype=np.uint8)
