"""The memory budget of one device: what worker processes may hold. Plain bookkeeping, without processes."""

from collections.abc import Hashable
from dataclasses import dataclass, field


@dataclass
class MemoryPool:
    """Keeps what all worker processes of one device hold within its budget.

    A process that runs a job holds the job's predicted peak; one that waits for a job holds `idle_bytes`, and can be
    ended where a job needs that room.

    Args:
        budget_bytes: Of the device.
        slot_count: Processes at most.
        idle_bytes: What a process holds without a job.
    """

    budget_bytes: int
    slot_count: int
    idle_bytes: int = 0
    idle_count: int = 0
    """Processes that are alive and have no job."""
    _reserved: dict[Hashable, int] = field(default_factory=dict)

    @property
    def reserved_bytes(self) -> int:
        """What running jobs may reach and idle processes hold."""
        return sum(self._reserved.values()) + self.idle_count * self.idle_bytes

    @property
    def running_count(self) -> int:
        return len(self._reserved)

    def fits_alone(self, peak_bytes: int) -> bool:
        return peak_bytes <= self.budget_bytes

    def processes_in_the_way(self, peak_bytes: int) -> int | None:
        """How many idle processes have to end so that a job can start now; None if it has to wait.

        The job takes an idle process over, or a new one where a slot is free.
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
        """Reserve the bytes of a job that can start now; returns how many idle processes have to end first.

        Raises:
            ValueError: If it has to wait, could never fit, or runs already.
        """
        if key in self._reserved:
            raise ValueError(f"{key!r} is running already")
        ended = self.processes_in_the_way(peak_bytes)
        if ended is None:
            raise ValueError(
                f"{key!r} needs {peak_bytes} bytes and a slot beside {self.reserved_bytes} bytes of {self.budget_bytes}"
            )
        self.idle_count = max(self.idle_count - 1, 0) - ended
        self._reserved[key] = peak_bytes
        return ended

    def extend(self, key: Hashable, peak_bytes: int) -> bool:
        """Reserve more for a job that was admitted, if there is room for it; returns whether there was."""
        if self.reserved_bytes + peak_bytes - self._reserved[key] > self.budget_bytes:
            return False
        self._reserved[key] = peak_bytes
        return True

    def granted(self, key: Hashable) -> int:
        """What is reserved for a job."""
        return self._reserved[key]

    def release(self, key: Hashable, *, process_lives: bool) -> None:
        """Give back what a job had reserved; its process is idle now, or has ended."""
        del self._reserved[key]
        self.idle_count += process_lives

    def holds(self, key: Hashable) -> bool:
        """Whether something is reserved for a job."""
        return key in self._reserved
