"""Measure the memory of a process, and control what the C library does with freed memory."""

import ctypes
import threading
from collections.abc import Callable
from pathlib import Path

import torch

from nas.common import devices
from nas.memory.overheads import ON_ACCELERATOR


def private_bytes() -> int:
    """Return the private memory of this process in bytes, in memory or swap, without shared memory and mapped files.

    Linux only. Takes 0.03 ms; reading all mappings of the process takes several milliseconds. Pages of mapped files
    that this process has modified privately are included, as they should be.

    Raises:
        OSError: If the system does not report it.
    """
    total = 0
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("RssAnon", "VmSwap"):
            total += int(value.split()[0]) * 1024
    if not total:
        raise OSError("/proc/self/status: no value for RssAnon")
    return total


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # options of mallopt in glibc
_LARGE_TENSOR_BYTES = 128 * 2**10
"""Smaller tensors share pages, whose fragmentation costs 1 to 5 MiB in a step at base size. With 32 KiB it costs less
than 1 MiB, but steps take an eighth longer."""


def keep_freed_memory() -> None:
    """Make this process keep freed memory until `release_freed_memory`, if the C library supports it.

    Otherwise large tensors return to the system when freed, and each new one is paged in again, which takes 10 to 50 %
    of the time of a training step: more for small tensors, and on virtual machines with expensive page faults. Kept
    memory fragments: a step touches 20 to 75 % more memory than its live tensors need, and varies between runs. The
    fragments can be released at any time.
    """
    _set_malloc_options(mmap_threshold=2**30)


def map_large_tensors() -> None:
    """Give every large tensor its own pages, which return to the system when it is freed.

    The process then holds no more than its tensors need. This costs the time that `keep_freed_memory` saves; for large
    tensors less than half of it if the process was started with `GLIBC_TUNABLES=glibc.malloc.hugetlb=1`, as workers
    are.
    """
    _set_malloc_options(mmap_threshold=_LARGE_TENSOR_BYTES)


def _set_malloc_options(mmap_threshold: int) -> None:
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_MMAP_THRESHOLD, mmap_threshold)
        set_option(_M_TRIM_THRESHOLD, 2**31 - 1)


def release_freed_memory() -> None:
    """Return freed memory to the system, so that the peak of one job is not held during the next.

    Does nothing if the C library does not support it.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)


def _ignore(measured_bytes: int) -> None:
    del measured_bytes


class MemoryWatch:
    """Context that samples the private memory of this process fifty times per second.

    Freed memory that the C library keeps does not count against the limit: when the limit is exceeded, it is released
    first, and only the remainder is compared.

    Args:
        limit_bytes: The limit; None for no limit.
        on_exceeded: Callback that receives the private memory in bytes when it exceeds the limit; called at most once,
            from the sampling thread.
    """

    _INTERVAL_SECONDS = 0.02

    def __init__(self, limit_bytes: int | None = None, on_exceeded: Callable[[int], None] = _ignore) -> None:
        self.peak_bytes = 0
        """The highest sample so far; the peak at the end of the context."""
        self._limit_bytes = limit_bytes
        self._on_exceeded = on_exceeded
        self._is_reported = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory watch", daemon=True)

    def _run(self) -> None:
        while not self._done.wait(self._INTERVAL_SECONDS):
            self._sample()

    def _sample(self) -> None:
        private = private_bytes()
        self.peak_bytes = max(self.peak_bytes, private)
        if self._limit_bytes is not None and private > self._limit_bytes and not self._is_reported:
            release_freed_memory()
            private = private_bytes()
            if private > self._limit_bytes:
                self._is_reported = True
                self._on_exceeded(private)

    def __enter__(self) -> "MemoryWatch":
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._sample()


class AllocatorWatch:
    """Context that measures the memory that torch needs on an accelerator for this process at its peak.

    It is what tensors need with what the allocator needs between them, or all that the allocator has reserved, if that
    is less: it keeps freed memory as long as it has room. The driver's context is not included.

    Args:
        device: The accelerator.
    """

    def __init__(self, device: torch.device) -> None:
        self.peak_bytes = 0
        """The peak at the end of the context."""
        self._device = device

    def __enter__(self) -> "AllocatorWatch":
        devices.start_peak(self._device)
        return self

    def __exit__(self, *_: object) -> None:
        needed_bytes = devices.allocated_peak_bytes(self._device) + ON_ACCELERATOR.allocator_bytes
        self.peak_bytes = min(devices.peak_bytes(self._device), needed_bytes)
