"""Independent work side by side."""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch

Work = TypeVar("Work")
Outcome = TypeVar("Outcome")


def mapped(function: Callable[[Work], Outcome], work: Iterable[Work], *, is_quick: bool) -> Iterator[Outcome]:
    """What a function makes of each, in their order.

    Args:
        function: Of a module, so that other processes find it.
        work: For it, one piece a call.
        is_quick: In this process: others would take longer to start than to do it. Otherwise in one process a core, of
            one thread each, since two threads of every process would be slower than one.
    """
    if is_quick:
        yield from map(function, work)
        return
    # Forked processes would inherit locks.
    with multiprocessing.get_context("spawn").Pool(os.cpu_count(), torch.set_num_threads, (1,)) as pool:
        yield from pool.imap(function, work)
