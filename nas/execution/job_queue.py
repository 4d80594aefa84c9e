"""Jobs that wait for memory. Plain bookkeeping, without processes."""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass

from nas.execution.memory_pool import MemoryPool

PATIENCE = 8
"""The number of later jobs that may overtake a waiting one before a device is kept free for it."""


@dataclass
class _Waiting:
    peak_bytes: int
    overtaken: int = 0


class JobQueue:
    """Jobs that wait for memory: first fit in the order of arrival, with ageing so that no job starves.

    A job that does not fit now is overtaken by later ones that do. Once it has been overtaken `patience` times, a
    device that can hold it is closed to all other jobs until it has started.
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
        """Append a job to the queue.

        Raises:
            ValueError: If the job is waiting already.
        """
        if key in self._waiting:
            raise ValueError(f"{key!r} is already waiting")
        self._waiting[key] = _Waiting(peak_bytes)

    def remove(self, key: Hashable) -> None:
        """Remove a job that has not started."""
        del self._waiting[key]

    def admit_next(self, pools: Mapping[str, MemoryPool]) -> tuple[Hashable, str, int] | None:
        """Admit the first job that can start now.

        Args:
            pools: The memory pool of each device, by name.

        Returns:
            The job, its device, and the number of the device's idle processes that have to end first; None if every
            job has to wait.
        """
        closed: set[str] = set()
        passed: list[_Waiting] = []
        for key, entry in self._waiting.items():
            device = self._best_device(entry.peak_bytes, {name: pools[name] for name in pools if name not in closed})
            if device is not None:
                for earlier in passed:
                    earlier.overtaken += 1
                del self._waiting[key]
                return key, device, pools[device].admit(key, entry.peak_bytes)
            passed.append(entry)
            if entry.overtaken >= self._patience:
                kept = self._kept_free(entry.peak_bytes, pools, closed)
                if kept is not None:
                    closed.add(kept)
        return None

    @staticmethod
    def _best_device(peak_bytes: int, pools: Mapping[str, MemoryPool]) -> str | None:
        """Return the device that has to end the fewest processes to start the job; among equals, the emptiest."""
        possible = {name: pool.processes_in_the_way(peak_bytes) for name, pool in pools.items()}
        ended = {name: count for name, count in possible.items() if count is not None}
        if not ended:
            return None
        return min(ended, key=lambda name: (ended[name], pools[name].reserved_bytes - pools[name].budget_bytes))

    @staticmethod
    def _kept_free(peak_bytes: int, pools: Mapping[str, MemoryPool], closed: set[str]) -> str | None:
        """Return the device that a starved job waits for: always the same one among those with enough memory."""
        able = [name for name, pool in pools.items() if name not in closed and pool.fits_alone(peak_bytes)]
        return max(able, key=lambda name: (pools[name].budget_bytes, name), default=None)
