"""Write the arrays of a feature store so that recorded progress is always on disk."""

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.data.features.plan import ArrayPlan

SAVE_SECONDS = 10.0


class ArrayFiles(contextlib.AbstractContextManager["ArrayFiles"]):
    """The arrays of a store, open for writing.

    They are not memory-mapped: a full disk would kill the process with SIGBUS instead of raising an error.

    Args:
        directory: Folder of the store, with all files in their full size.
        arrays: The arrays in it.
    """

    def __init__(self, directory: Path, arrays: Sequence[ArrayPlan]) -> None:
        self._arrays = {array.name: array for array in arrays}
        self._descriptors: dict[str, int] = {}
        for name in self._arrays:
            self._descriptors[name] = os.open(directory / name, os.O_RDWR)

    def write(self, name: str, row: int, values: NDArray[np.generic]) -> None:
        """Write rows.

        Args:
            name: Name of the array.
            row: Index of the first row.
            values: The rows, in the element type of the array.
        """
        array = self._arrays[name]
        offset = len(array.header) + row * array.row_bytes
        rest = values.reshape(-1).view(np.uint8).data
        while rest:
            written = os.pwrite(self._descriptors[name], rest, offset)
            rest, offset = rest[written:], offset + written

    def sync(self) -> None:
        """Flush everything written so far to the disk (fsync)."""
        for descriptor in self._descriptors.values():
            os.fsync(descriptor)

    def __exit__(self, *exception: object) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)


class ProgressSaver(contextlib.AbstractContextManager["ProgressSaver"]):
    """Makes progress durable in a background thread: flushes the files, then records the steps written before.

    Args:
        files: The files to flush.
        write_progress: Records a number of steps durably.
    """

    def __init__(self, files: ArrayFiles, write_progress: Callable[[int], None]) -> None:
        self._files, self._write_progress = files, write_progress
        self._pool = ThreadPoolExecutor(1)
        self._running: Future[None] | None = None
        self._last = time.monotonic()

    def record(self, done: int) -> None:
        """Start saving, after a step, if the interval has passed and the previous save has ended.

        Args:
            done: Number of steps written so far.
        """
        if time.monotonic() - self._last < SAVE_SECONDS or (self._running and not self._running.done()):
            return
        if self._running:
            self._running.result()  # raises the error of the last save, if any
        self._last = time.monotonic()
        self._running = self._pool.submit(self._save, done)

    def finish(self, done: int) -> None:
        """Save and wait until the progress is durable.

        Args:
            done: Number of steps written so far.
        """
        if self._running:
            self._running.result()
        self._save(done)

    def _save(self, done: int) -> None:
        self._files.sync()
        self._write_progress(done)

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown()
