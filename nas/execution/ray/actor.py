"""A worker process as others call it: jobs, the supernet, and being stopped while one of them is under way."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.common.fast_imports import import_frameworks

import_frameworks()  # a worker process starts here; the modules below import torch

from nas.execution.base import SupernetJob, SupernetProgress
from nas.execution.worker import CandidateWorker, WorkerSetup
from nas.execution.worker_exit import ExitRecord
from nas.search.keys import ModelKey
from nas.search.trial import Failure, Job, Result
from nas.training.distributed import distributed_group, free_address
from nas.training.stopping import StopRequested

_GROUP_SECONDS = 300.0  # a process of a group that falls silent for so long is taken for lost

WorkerFactory = Callable[[WorkerSetup, Callable[[int, int], None]], CandidateWorker]


class Actor:
    """One worker process; `stop` and `progress` are served while `run` is under way.

    Args:
        factory: Makes the worker, once it is needed.
        setup: Of the worker.
        note_path: Where the process writes why it dies.
    """

    def __init__(self, factory: WorkerFactory, setup: WorkerSetup, note_path: Path) -> None:
        self._factory = factory
        self._setup = setup
        self._note = ExitRecord(note_path)
        self._note.begin()
        # All computing is done by one thread: Ray calls from several, and oneDNN and MKL keep working memory for each.
        self._computing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="computing")
        self._built: CandidateWorker | None = None
        self._progress = SupernetProgress(0, 0.0)

    def prepare(self) -> None:
        """Load what every job needs, before the first one asks."""
        self._computing.submit(self._worker).result()

    def _worker(self) -> CandidateWorker:
        if self._built is None:
            self._built = self._factory(self._setup, self._note.end_for_memory)
        return self._built

    def run(self, job: Job, grant_bytes: int) -> tuple[Result | Failure, ...]:
        """What the job's members came to; nothing where it was stopped."""
        return self._computing.submit(self._run, job, grant_bytes).result()

    def _run(self, job: Job, grant_bytes: int) -> tuple[Result | Failure, ...]:
        try:
            return tuple(self._worker().outcomes(job, limit_bytes=grant_bytes))
        except StopRequested:
            return ()
        except (Exception, SystemExit) as error:  # the worker itself could not be made, or its code wants to end it
            return tuple(Failure.of(member, error, 0) for member in job.members)

    def weights(self, key: ModelKey) -> NDArray[np.uint8]:
        """Content of the file that a full training has left."""
        return np.fromfile(self._setup.weights_path(key), dtype=np.uint8)

    def stop(self) -> None:
        if self._built is not None:
            self._built.stop()

    def group_address(self, host: str | None) -> str:
        """Where the processes of a group meet: on this host alone, or at the address by which others reach it."""
        return free_address() if host is None else free_address(host)

    def train_supernet(self, order: SupernetJob, rank: int, size: int, address: str, grant_bytes: int) -> int:
        """This process's part in the training of the supernet; returns the steps done."""
        return self._computing.submit(self._train_supernet, order, rank, size, address, grant_bytes).result()

    def _train_supernet(self, order: SupernetJob, rank: int, size: int, address: str, grant_bytes: int) -> int:
        worker = self._worker()  # before others begin to wait for this one
        with distributed_group(rank=rank, size=size, address=address, timeout_seconds=_GROUP_SECONDS) as group:
            return worker.train_supernet(order, group, limit_bytes=grant_bytes, on_progress=self._note_progress)

    def _note_progress(self, progress: SupernetProgress) -> None:
        self._progress = progress

    def progress(self) -> SupernetProgress:
        return self._progress

    def supernet(self) -> NDArray[np.uint8]:
        return np.fromfile(self._setup.supernet_path, dtype=np.uint8)
