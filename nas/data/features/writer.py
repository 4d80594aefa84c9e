"""Writing the arrays of a feature store so that what is said to be done is on the disk."""

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.data.features.plan import ArrayPlan

CHECKPOINT_SECONDS = 10.0


class ArrayFiles(contextlib.AbstractContextManager["ArrayFiles"]):
    """All arrays of a folder, open for writing; not as memory maps, which end the process when the disk is full."""

    def __init__(self, directory: Path, arrays: Sequence[ArrayPlan]) -> None:
        self._arrays = {array.name: array for array in arrays}
        self._descriptors: dict[str, int] = {}
        for name in self._arrays:
            self._descriptors[name] = os.open(directory / name, os.O_RDWR)

    def write(self, name: str, row: int, values: NDArray[np.generic]) -> None:
        """Put rows at their place."""
        array = self._arrays[name]
        offset = len(array.header) + row * array.row_bytes
        rest = values.reshape(-1).view(np.uint8).data
        while rest:
            written = os.pwrite(self._descriptors[name], rest, offset)
            rest, offset = rest[written:], offset + written

    def sync(self) -> None:
        """Return when all that was written is on the disk."""
        for descriptor in self._descriptors.values():
            os.fsync(descriptor)

    def __exit__(self, *exception: object) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)


class Checkpoints(contextlib.AbstractContextManager["Checkpoints"]):
    """Makes progress durable beside the work: flushes the files, then notes the steps that were done before."""

    def __init__(self, files: ArrayFiles, write_progress: Callable[[int], None]) -> None:
        self._files, self._write_progress = files, write_progress
        self._pool = ThreadPoolExecutor(1)
        self._running: Future[None] | None = None
        self._last = time.monotonic()

    def reached(self, done: int) -> None:
        """A step is done and written; makes it durable if it is time and the last time is over."""
        if time.monotonic() - self._last < CHECKPOINT_SECONDS or (self._running and not self._running.done()):
            return
        if self._running:
            self._running.result()  # raises what went wrong
        self._last = time.monotonic()
        self._running = self._pool.submit(self._save, done)

    def finish(self, done: int) -> None:
        """All steps are done: return when they are durable."""
        if self._running:
            self._running.result()
        self._save(done)

    def _save(self, done: int) -> None:
        self._files.sync()
        self._write_progress(done)

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown()
