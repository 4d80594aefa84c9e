"""Who may start under the memory budget of each device. Plain bookkeeping: no processes, no Ray here."""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field

PATIENCE = 8
"""How often a waiting job may be overtaken by later ones before a device is kept free for it."""


@dataclass
class Ledger:
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


@dataclass
class _Waiting:
    peak_bytes: int
    overtaken: int = 0


class WaitingLine:
    """Jobs that wait for memory: first fit, in the order of their arrival, and with age so that none is starved.

    A job that does not fit now is passed over by later ones that do. Once it has been overtaken `patience` times, a
    device that can hold it is closed to all others until it has started.
    """

    def __init__(self, patience: int = PATIENCE) -> None:
        self._patience = patience
        self._waiting: dict[Hashable, _Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._waiting)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._waiting

    def add(self, key: Hashable, peak_bytes: int) -> None:
        """Join the line at its end.

        Raises:
            ValueError: If the job is in it already.
        """
        if key in self._waiting:
            raise ValueError(f"{key!r} is waiting already")
        self._waiting[key] = _Waiting(peak_bytes)

    def remove(self, key: Hashable) -> None:
        """Leave the line without having started."""
        del self._waiting[key]

    def admit_next(self, ledgers: Mapping[str, Ledger]) -> tuple[Hashable, str, int] | None:
        """Let the first job start that can.

        Args:
            ledgers: By name of the device.

        Returns:
            The job, its device, and how many idle processes of it have to end first; None if all have to wait.
        """
        closed: set[str] = set()
        passed: list[_Waiting] = []
        for key, entry in self._waiting.items():
            place = self._place(entry.peak_bytes, {name: ledgers[name] for name in ledgers if name not in closed})
            if place is not None:
                for earlier in passed:
                    earlier.overtaken += 1
                del self._waiting[key]
                return key, place, ledgers[place].admit(key, entry.peak_bytes)
            passed.append(entry)
            if entry.overtaken >= self._patience:
                kept = self._kept_free(entry.peak_bytes, ledgers, closed)
                if kept is not None:
                    closed.add(kept)
        return None

    @staticmethod
    def _place(peak_bytes: int, ledgers: Mapping[str, Ledger]) -> str | None:
        """Of the devices where the job can start now, one where no process has to end for it, the emptiest."""
        possible = {name: ledger.processes_in_the_way(peak_bytes) for name, ledger in ledgers.items()}
        ended = {name: count for name, count in possible.items() if count is not None}
        if not ended:
            return None
        return min(ended, key=lambda name: (ended[name], ledgers[name].reserved_bytes - ledgers[name].budget_bytes))

    @staticmethod
    def _kept_free(peak_bytes: int, ledgers: Mapping[str, Ledger], closed: set[str]) -> str | None:
        """The device that a starved job waits for: of those that could hold it, always the same one."""
        able = [name for name, ledger in ledgers.items() if name not in closed and ledger.fits_alone(peak_bytes)]
        return max(able, key=lambda name: (ledgers[name].budget_bytes, name), default=None)
