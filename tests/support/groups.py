"""Groups of processes, here of threads."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nas.training.distributed import GradientGroup, distributed_group, free_address

TIMEOUT_SECONDS = 20.0


def run_group(size: int, work: Callable[[GradientGroup], Any], timeout_seconds: float = TIMEOUT_SECONDS) -> list[Any]:
    """Run a function in every process of a group, each a thread here; return the values or raised errors by rank."""
    address = free_address()

    def run(rank: int) -> Any:
        try:
            with distributed_group(rank=rank, size=size, address=address, timeout_seconds=timeout_seconds) as group:
                return work(group)
        except Exception as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size)))
