"""Jobs that wait for memory. Plain bookkeeping, without processes."""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass

from nas.execution.memory_pool import MemoryPool

PATIENCE = 8
"""How often a waiting job may be overtaken by later ones before a device is kept free for it."""


@dataclass
class _Waiting:
    peak_bytes: int
    overtaken: int = 0


class JobQueue:
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

    def admit_next(self, ledgers: Mapping[str, MemoryPool]) -> tuple[Hashable, str, int] | None:
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
    def _place(peak_bytes: int, ledgers: Mapping[str, MemoryPool]) -> str | None:
        """Of the devices where the job can start now, one where no process has to end for it, the emptiest."""
        possible = {name: ledger.processes_in_the_way(peak_bytes) for name, ledger in ledgers.items()}
        ended = {name: count for name, count in possible.items() if count is not None}
        if not ended:
            return None
        return min(ended, key=lambda name: (ended[name], ledgers[name].reserved_bytes - ledgers[name].budget_bytes))

    @staticmethod
    def _kept_free(peak_bytes: int, ledgers: Mapping[str, MemoryPool], closed: set[str]) -> str | None:
        """The device that a starved job waits for: of those that could hold it, always the same one."""
        able = [name for name, ledger in ledgers.items() if name not in closed and ledger.fits_alone(peak_bytes)]
        return max(able, key=lambda name: (ledgers[name].budget_bytes, name), default=None)
