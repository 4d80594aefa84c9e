"""Processes that decode and process images for a build, so that the building process has time to keep a GPU busy.

They are forked: each has the data set without a copy, and leaves the device alone. Pixel values come back through
memory that all of them share.
"""

import contextlib
import ctypes
import mmap
import multiprocessing
import os
import queue
import signal
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.common.devices import is_accelerator
from nas.common.errors import ExecutionError
from nas.data.archive import reopen_archives
from nas.data.features.inputs import FeatureSources, InputRange, SplitInputs, pixel_values

_DIE_WITH_PARENT = 1
"""The option of Linux's prctl that sends a signal to a process when its parent ends."""
_PARALLEL_TOKENIZERS = "TOKENIZERS_PARALLELISM"

_Value = TypeVar("_Value")


def can_fork() -> bool:
    """Return whether this system can start processes as copies of this one: Linux; macOS has libraries that fail."""
    return sys.platform == "linux"


class DecodingProcesses:
    """Processes that decode blocks of images, each its own block; to be closed by `close`.

    Args:
        splits: Inputs of every split, by name.
        sources: The data, and the device that computes.
        image_shape: Shape of the pixel values of an image.
        largest: The number of views of images in the largest block.
        count: The number of processes.
        waiting: The number of blocks that are decoded and not yet computed, at most.

    Raises:
        ExecutionError: If the processes end at once.
    """

    def __init__(
        self,
        splits: Mapping[str, SplitInputs],
        sources: FeatureSources,
        *,
        image_shape: tuple[int, ...],
        largest: int,
        count: int,
        waiting: int,
    ) -> None:
        self._is_pinned = is_accelerator(sources.device)
        shape = (count + waiting, largest, *image_shape)
        # Not a file in /dev/shm, which containers often keep small. Pages that no block reaches take no memory.
        shared = mmap.mmap(-1, 4 * int(np.prod(shape)))
        self._slots = torch.frombuffer(shared, dtype=torch.float32).view(shape)
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(len(self._slots)):
            self._free.put(slot)
        self._pool = ProcessPoolExecutor(
            count,
            mp_context=multiprocessing.get_context("fork"),
            initializer=_start,
            initargs=(splits, sources, self._slots, os.getpid()),
        )
        with _forking_quietly():
            self._wait(self._pool.submit(os.getpid))  # all of them start now, in this thread

    def start(self, batch: InputRange) -> tuple["Future[NDArray[np.float32] | None]", int]:
        """Start to decode the images of a batch; `collect` returns them, in any order.

        Args:
            batch: The batch.

        Raises:
            ExecutionError: If a process has died.
        """
        slot = self._free.get()
        try:
            return self._pool.submit(_decode, batch, slot), slot
        except BrokenProcessPool as error:
            raise _death() from error

    def collect(self, batch: InputRange, decoding: "Future[NDArray[np.float32] | None]", slot: int) -> Tensor:
        """Return the pixel values of a batch, (B, 3, height, width), in pinned memory if an accelerator computes.

        Args:
            batch: The batch.
            decoding: What `start` has returned.
            slot: What `start` has returned.

        Raises:
            DataError: If an image cannot be read.
            ExecutionError: If a process has died.
        """
        try:
            other = self._wait(decoding)
            pixels = self._slots[slot, : batch.count] if other is None else torch.from_numpy(other)
            return pixels.pin_memory() if self._is_pinned else pixels.clone()
        finally:
            self._free.put(slot)

    @staticmethod
    def _wait(future: "Future[_Value]") -> _Value:
        try:
            return future.result()
        except BrokenProcessPool as error:
            raise _death() from error

    def close(self) -> None:
        """End all processes."""
        self._pool.shutdown(cancel_futures=True)


def _death() -> ExecutionError:
    return ExecutionError(
        "features: a process that decodes images has died; expected all of them to run until the images are decoded, "
        "got one that was killed, for instance since memory was short; what is computed is kept for the next start"
    )


class _Child:
    """What a decoding process works with."""

    splits: ClassVar[Mapping[str, SplitInputs]]
    sources: ClassVar[FeatureSources]
    slots: ClassVar[Tensor]


def _start(splits: Mapping[str, SplitInputs], sources: FeatureSources, slots: Tensor, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the building process ends this one
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # the parent has ended before
    torch.set_num_threads(1)
    reopen_archives()
    _Child.splits, _Child.sources, _Child.slots = splits, sources, slots


def _decode(batch: InputRange, slot: int) -> "NDArray[np.float32] | None":
    """Write the pixel values of a batch to a slot; return them if they have another shape, which is an error later."""
    split = _Child.splits[batch.split]
    pixels = pixel_values(split.images[batch.start : batch.stop], split.views, _Child.sources)
    place = _Child.slots[slot, : batch.count]
    if pixels.shape != place.shape:
        values: NDArray[np.float32] = pixels.numpy()
        return values
    place.copy_(pixels)
    return None


@contextlib.contextmanager
def _forking_quietly() -> Iterator[None]:
    """Keep the tokenizers library from warning about a fork: no child tokenizes."""
    is_set = _PARALLEL_TOKENIZERS in os.environ
    os.environ.setdefault(_PARALLEL_TOKENIZERS, "true")  # the default
    try:
        yield
    finally:
        if not is_set:
            del os.environ[_PARALLEL_TOKENIZERS]
