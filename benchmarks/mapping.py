"""Run independent pieces of work in parallel processes."""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch

Work = TypeVar("Work")
Outcome = TypeVar("Outcome")


def mapped(function: Callable[[Work], Outcome], work: Iterable[Work], *, is_quick: bool) -> Iterator[Outcome]:
    """Yield the results of a function, in the order of its arguments.

    Args:
        function: A function of a module, so that other processes can import it.
        work: The arguments, one per call.
        is_quick: Whether to compute in this process, because starting others would take longer than the work.
            Otherwise one process per core computes with one thread, because two threads in each would be slower.
    """
    if is_quick:
        yield from map(function, work)
        return
    # Forked processes would inherit locks.
    with multiprocessing.get_context("spawn").Pool(os.cpu_count(), torch.set_num_threads, (1,)) as pool:
        yield from pool.imap(function, work)
