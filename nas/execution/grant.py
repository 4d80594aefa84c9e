"""The memory that a worker process may hold during one job: measured, limited, and kept or returned between tensors."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from nas.common.devices import is_accelerator, limit_memory, load_kernels, outside_bytes
from nas.common.host import usable_host_memory
from nas.memory.measurement import (
    AllocatorWatch,
    MemoryWatch,
    keep_freed_memory,
    map_large_tensors,
    release_freed_memory,
)
from nas.memory.overheads import CONTEXT_BYTES, bytes_with_fragmentation


class GrantExceeded(Exception):
    """Raised when the process holds more memory than it was granted."""


class MemoryGrant:
    """Holds this process to the memory it was granted, one job at a time.

    On the CPU a thread measures the private memory of the process. On a GPU torch's allocator enforces the limit, less
    the memory of the process outside of it, which is measured once; the private memory on the host has a limit of its
    own.

    Args:
        device: The device of the tensors.
        base_bytes: Private memory of this process that does not belong to the worker: neither limited nor measured.
        on_exceeded: Callback that receives, in another thread, the bytes held and granted when a job exceeds its grant;
            None to end the job at its next step instead.
        worker_count: The number of workers of this machine, which share its memory while they compute on GPUs.
    """

    def __init__(
        self,
        device: torch.device,
        base_bytes: int = 0,
        on_exceeded: Callable[[int, int], None] | None = None,
        worker_count: int = 1,
    ) -> None:
        self.peak_bytes = 0
        """The highest memory measured during the last job."""
        self.keeps_freed_memory = False
        """Whether the last job had room to keep the memory it freed."""
        self._device = device
        self._base_bytes = base_bytes
        self._on_exceeded = on_exceeded
        self._host_bytes = usable_host_memory() // worker_count
        self._limit_bytes: int | None = None
        self._exceeded_bytes = 0
        self._outside_bytes = 0
        if is_accelerator(device):
            load_kernels(device)
            # What other processes use looks the same, and the bound holds for them together.
            self._outside_bytes = min(outside_bytes(device), CONTEXT_BYTES)

    @contextmanager
    def limit(self, limit_bytes: int | None, needed_bytes: int) -> Iterator[None]:
        """Limit and measure the memory of this process while a job runs.

        Freed memory is kept if the grant has room for it, which is faster.

        Args:
            limit_bytes: The memory that the process may hold; None for no limit.
            needed_bytes: The predicted peak of the job.
        """
        self._limit_bytes, self._exceeded_bytes = limit_bytes, 0
        is_ample = limit_bytes is None or limit_bytes >= bytes_with_fragmentation(needed_bytes)
        self.keeps_freed_memory = is_ample and not is_accelerator(self._device)
        (keep_freed_memory if self.keeps_freed_memory else map_large_tensors)()
        bound_bytes = self._bound_bytes
        host = MemoryWatch(None if bound_bytes is None else self._base_bytes + bound_bytes, self._note_exceeded)
        allocator = self._watch_allocator() if is_accelerator(self._device) else None
        try:
            with host, allocator or contextlib.nullcontext():
                yield
        finally:
            on_host = max(host.peak_bytes - self._base_bytes, 0)
            self.peak_bytes = on_host if allocator is None else allocator.peak_bytes + self._outside_bytes
            release_freed_memory()  # the memory of an idle worker counts against the budget as well

    def check(self) -> None:
        """Check the limit; called between the steps of a job.

        Raises:
            GrantExceeded: If the job has exceeded its grant.
        """
        if self._exceeded_bytes:
            raise GrantExceeded(f"{self._exceeded_bytes} bytes held on the host, {self._bound_bytes} granted")

    @property
    def _bound_bytes(self) -> int | None:
        """The private memory that the process may hold on the host during a job."""
        return self._host_bytes if is_accelerator(self._device) else self._limit_bytes

    def _watch_allocator(self) -> AllocatorWatch:
        limit_bytes = self._limit_bytes
        limit_memory(self._device, None if limit_bytes is None else max(limit_bytes - self._outside_bytes, 0))
        return AllocatorWatch(self._device)

    def _note_exceeded(self, held_bytes: int) -> None:
        self._exceeded_bytes = held_bytes - self._base_bytes
        if self._on_exceeded is not None:
            self._on_exceeded(self._exceeded_bytes, self._bound_bytes or 0)
