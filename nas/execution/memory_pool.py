"""The memory budget of one device, shared by its worker processes. Plain bookkeeping, without processes."""

from collections.abc import Hashable
from dataclasses import dataclass, field


@dataclass
class MemoryPool:
    """Keeps the memory of all worker processes of one device within its budget.

    A process that runs a job holds the job's predicted peak. An idle process holds `idle_bytes`, and can be ended when
    a job needs that memory.

    Args:
        budget_bytes: The budget of the device.
        slot_count: The largest number of processes.
        idle_bytes: The memory of an idle process.
    """

    budget_bytes: int
    slot_count: int
    idle_bytes: int = 0
    idle_count: int = 0
    """The number of processes that are alive and have no job."""
    _reserved: dict[Hashable, int] = field(default_factory=dict)

    @property
    def reserved_bytes(self) -> int:
        """The memory that running jobs may reach and idle processes hold."""
        return sum(self._reserved.values()) + self.idle_count * self.idle_bytes

    @property
    def running_count(self) -> int:
        return len(self._reserved)

    def fits_alone(self, peak_bytes: int) -> bool:
        return peak_bytes <= self.budget_bytes

    def processes_in_the_way(self, peak_bytes: int) -> int | None:
        """Return the number of idle processes that have to end so that a job can start now; None if it has to wait.

        The job takes over an idle process, or starts a new one in a free slot.
        """
        if self.running_count >= self.slot_count:
            return None
        others = max(self.idle_count - 1, 0)
        missing = sum(self._reserved.values()) + others * self.idle_bytes + peak_bytes - self.budget_bytes
        if missing <= 0:
            return 0
        if missing > others * self.idle_bytes:
            return None
        return -(-missing // self.idle_bytes)

    def admit(self, key: Hashable, peak_bytes: int) -> int:
        """Reserve the memory of a job that can start now; returns the number of idle processes that have to end first.

        Raises:
            ValueError: If the job has to wait, can never fit, or is running already.
        """
        if key in self._reserved:
            raise ValueError(f"{key!r} is already running")
        ended = self.processes_in_the_way(peak_bytes)
        if ended is None:
            raise ValueError(
                f"{key!r}: does not fit now; expected a free slot and {peak_bytes} free bytes, got "
                f"{self.running_count} of {self.slot_count} slots and {self.reserved_bytes} of {self.budget_bytes} "
                "bytes in use"
            )
        self.idle_count = max(self.idle_count - 1, 0) - ended
        self._reserved[key] = peak_bytes
        return ended

    def extend(self, key: Hashable, peak_bytes: int) -> bool:
        """Reserve more memory for an admitted job if it is available; returns whether it was."""
        if self.reserved_bytes + peak_bytes - self._reserved[key] > self.budget_bytes:
            return False
        self._reserved[key] = peak_bytes
        return True

    def granted(self, key: Hashable) -> int:
        """Return the bytes that are reserved for a job."""
        return self._reserved[key]

    def release(self, key: Hashable, *, process_lives: bool) -> None:
        """Release the memory of a job; its process is idle now, or has ended."""
        del self._reserved[key]
        self.idle_count += process_lives

    def holds(self, key: Hashable) -> bool:
        """Return whether memory is reserved for a job."""
        return key in self._reserved
