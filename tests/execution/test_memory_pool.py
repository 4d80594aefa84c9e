import random
from collections.abc import Hashable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.execution.job_queue import JobQueue
from nas.execution.memory_pool import MemoryPool

BUDGETS = st.lists(st.integers(20, 100), min_size=1, max_size=3)
PEAKS = st.lists(st.integers(5, 110), max_size=40)


def fits_somewhere(peak: int, pools: dict[str, MemoryPool]) -> bool:
    return any(pool.fits_alone(peak) for pool in pools.values())


def devices(budgets: list[int], slots: int, idle_bytes: int = 5) -> dict[str, MemoryPool]:
    """Return devices with as many living processes as fit."""
    return {
        str(index): MemoryPool(budget, slots, idle_bytes, min(slots, budget // idle_bytes))
        for index, budget in enumerate(budgets)
    }


@given(BUDGETS, st.integers(1, 4), PEAKS, st.randoms(use_true_random=False), st.integers(0, 3))
def test_no_device_exceeds_its_budget_and_every_job_that_fits_is_admitted(
    budgets: list[int], slots: int, peaks: list[int], chance: random.Random, patience: int
) -> None:
    pools, queue = devices(budgets, slots), JobQueue(patience)
    wanted = {number: peak for number, peak in enumerate(peaks) if fits_somewhere(peak, pools)}
    arriving, running, started = list(wanted), dict[int, str](), list[int]()
    while arriving or len(queue) or running:
        for _ in range(chance.randint(0, 3)):
            if arriving:
                queue.add(arriving[0], wanted[arriving.pop(0)])
        while (admitted := queue.admit_next(pools)) is not None:
            key, device, _ = admitted
            assert isinstance(key, int)
            running[key] = device
            started.append(key)
        for device, pool in pools.items():
            held = sum(wanted[key] for key, where in running.items() if where == device)
            assert pool.reserved_bytes == held + pool.idle_count * 5 <= pool.budget_bytes
            assert 0 <= pool.idle_count <= slots - pool.running_count
        # A deadlock would be a waiting job that is not admitted while nothing runs.
        assert running or not len(queue)
        if running:
            ended = chance.choice(list(running))
            pools[running.pop(ended)].release(ended, process_lives=chance.random() < 0.8)
    assert sorted(started) == list(wanted)


@given(st.integers(1, 5), st.integers(2, 4))
def test_large_job_is_not_starved_by_a_stream_of_small_ones(patience: int, slots: int) -> None:
    pools, queue = {"host": MemoryPool(10, slots)}, JobQueue(patience)
    running: list[Hashable] = []

    def start_all() -> None:
        while (admitted := queue.admit_next(pools)) is not None:
            running.append(admitted[0])

    queue.add("small -1", 2)
    start_all()
    queue.add("large", 10)
    for number in range(3 * patience + 3 * slots):
        queue.add(f"small {number}", 2)
        start_all()
        if "large" in running:
            assert len(running) == 1
            return
        pools["host"].release(running.pop(0), process_lives=False)
        start_all()
    assert "large" in running


def test_starved_job_closes_one_device_and_leaves_the_others_open() -> None:
    pools, queue = {"a": MemoryPool(10, 2), "b": MemoryPool(10, 2)}, JobQueue(patience=0)
    pools["a"].admit("x", 4)
    pools["b"].admit("y", 4)
    queue.add("large", 10)
    queue.add("small", 4)
    assert queue.admit_next(pools) == ("small", "a", 0)
    queue.add("another", 4)
    assert queue.admit_next(pools) is None  # b is kept free for the large one, a has no slot left
    pools["b"].release("y", process_lives=False)
    assert queue.admit_next(pools) == ("large", "b", 0)


def test_job_takes_over_an_idle_process_and_ends_others_only_for_their_memory() -> None:
    pool = MemoryPool(100, slot_count=3, idle_bytes=20, idle_count=3)
    assert pool.reserved_bytes == 60
    assert pool.admit("small", 40) == 0  # 40 + 2 * 20
    assert pool.processes_in_the_way(41) == 1  # 40 + 41 + 20 is one too much
    assert pool.admit("large", 41) == 1
    assert pool.idle_count == 0 and pool.reserved_bytes == 81
    pool.release("large", process_lives=True)
    assert pool.reserved_bytes == 60


def test_job_that_does_not_fit_is_not_admitted() -> None:
    pool = MemoryPool(10, slot_count=2)
    pool.admit("first", 6)
    assert pool.processes_in_the_way(5) is None and pool.fits_alone(5)
    with pytest.raises(
        ValueError,
        match="expected a free slot and 5 free bytes, got 1 of 2 slots and 6 of 10 bytes",
    ):
        pool.admit("second", 5)
    assert not pool.fits_alone(11)


def test_job_can_neither_run_nor_wait_twice() -> None:
    pool, queue = MemoryPool(10, slot_count=2), JobQueue()
    pool.admit("job", 1)
    with pytest.raises(ValueError, match="already running"):
        pool.admit("job", 1)
    queue.add("job", 1)
    with pytest.raises(ValueError, match="already waiting"):
        queue.add("job", 1)


def test_emptiest_device_is_used_first() -> None:
    pools = {"a": MemoryPool(10, 2), "b": MemoryPool(20, 2)}
    queue = JobQueue()
    for number in range(4):
        queue.add(number, 5)
    places = [queue.admit_next(pools) for _ in range(4)]
    assert [place and place[1] for place in places] == ["b", "b", "a", "a"]
