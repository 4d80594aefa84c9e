"""What a process really holds, and what its C library does with memory that was freed."""

import ctypes
import threading
from collections.abc import Callable
from pathlib import Path

import torch


def private_bytes() -> int:
    """Private memory of this process now (Linux): what it alone has in memory or swap; nor shared, nor mapped files.

    Takes a thirtieth of a millisecond, where looking through all mappings takes several. A page of a mapped file that
    was changed for this process alone counts, as it should.
    """
    found = 0
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("RssAnon", "VmSwap"):
            found += int(value.split()[0]) * 1024
    if not found:
        raise OSError("/proc/self/status has no line RssAnon")
    return found


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_MAPPED_FROM_BYTES = 128 * 2**10
"""Below it, holes between tensors cost 1 to 5 MiB of a base step; at 32 KiB less than 1, but an eighth more time."""


def keep_freed_memory() -> None:
    """Let this process keep what it frees, where the C library can, until `release_freed_memory`.

    Else large tensors go back to the system when they are freed, and every new one is paged in anew: a tenth to a half
    of the time of a training step, the more the smaller its tensors and the dearer the pages of a virtual machine. What
    is kept has holes that fit no later tensor: a step then touches 20 to 75 % more memory than its tensors need at
    once, and not twice the same. The holes can be given back at any time.
    """
    _set_malloc_options(mapped_from=2**30)


def map_large_tensors() -> None:
    """Let every large tensor have pages of its own, which go back when it is freed: no more is held than tensors need.

    Costs what `keep_freed_memory` saves; of large tensors less than half of that where the process was started with
    `GLIBC_TUNABLES=glibc.malloc.hugetlb=1`, as workers are.
    """
    _set_malloc_options(mapped_from=_MAPPED_FROM_BYTES)


def _set_malloc_options(mapped_from: int) -> None:
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_MMAP_THRESHOLD, mapped_from)
        set_option(_M_TRIM_THRESHOLD, 2**31 - 1)


def release_freed_memory() -> None:
    """Give what was freed back to the system, where the C library can: else one job's peak is held through the next."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; others have no such need or no such function
    if trim is not None:
        trim(0)


def _ignore(measured_bytes: int) -> None:
    del measured_bytes


class MemoryWatch:
    """Highest private memory of this process while active, looked at fifty times a second.

    After `with`, `peak_bytes` holds it. Memory that the C library merely keeps is no reason to exceed a limit: it is
    given back first, as often as needed.

    Args:
        limit_bytes: What the process may hold; None for no limit.
        on_exceeded: Told once, from the watching thread, what is held when that is more.
    """

    _EVERY_SECONDS = 0.02

    def __init__(self, limit_bytes: int | None = None, on_exceeded: Callable[[int], None] = _ignore) -> None:
        self.peak_bytes = 0
        self._limit_bytes = limit_bytes
        self._on_exceeded = on_exceeded
        self._is_told = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory watch", daemon=True)

    def _watch(self) -> None:
        while not self._done.wait(self._EVERY_SECONDS):
            self._look()

    def _look(self) -> None:
        held = private_bytes()
        self.peak_bytes = max(self.peak_bytes, held)
        if self._limit_bytes is not None and held > self._limit_bytes and not self._is_told:
            release_freed_memory()
            held = private_bytes()
            if held > self._limit_bytes:
                self._is_told = True
                self._on_exceeded(held)

    def __enter__(self) -> "MemoryWatch":
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._look()


class AllocatorWatch:
    """Highest bytes that torch's allocator has reserved on a GPU for this process while active.

    Reserved, not allocated: what the allocator keeps, no other process can have. The driver's context is not among it.

    Args:
        device: A CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self.peak_bytes = 0
        self._device = device

    def __enter__(self) -> "AllocatorWatch":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self._device)
        return self

    def __exit__(self, *_: object) -> None:
        self.peak_bytes = torch.cuda.max_memory_reserved(self._device)
