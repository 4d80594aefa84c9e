from collections.abc import Hashable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.execution.job_queue import JobQueue
from nas.execution.memory_pool import MemoryPool

BUDGETS = st.lists(st.integers(20, 100), min_size=1, max_size=3)
PEAKS = st.lists(st.integers(5, 110), max_size=40)


def fits_somewhere(peak: int, ledgers: dict[str, MemoryPool]) -> bool:
    return any(ledger.fits_alone(peak) for ledger in ledgers.values())


def devices(budgets: list[int], slots: int, idle_bytes: int = 5) -> dict[str, MemoryPool]:
    """Devices whose processes are all alive at first, as many of them as there is room for."""
    return {
        str(index): MemoryPool(budget, slots, idle_bytes, min(slots, budget // idle_bytes))
        for index, budget in enumerate(budgets)
    }


@given(BUDGETS, st.integers(1, 4), PEAKS, st.randoms(use_true_random=False), st.integers(0, 3))
def test_whatever_comes_and_goes_no_device_is_ever_above_its_budget_and_all_that_fit_get_in(
    budgets: list[int], slots: int, peaks: list[int], chance: object, patience: int
) -> None:
    ledgers, line = devices(budgets, slots), JobQueue(patience)
    wanted = {number: peak for number, peak in enumerate(peaks) if fits_somewhere(peak, ledgers)}
    arriving, running, started = list(wanted), dict[Hashable, str](), list[Hashable]()
    while arriving or len(line) or running:
        for _ in range(chance.randint(0, 3)):  # type: ignore[attr-defined]
            if arriving:
                line.add(arriving[0], wanted[arriving.pop(0)])
        while (admitted := line.admit_next(ledgers)) is not None:
            key, device, _ = admitted
            running[key] = device
            started.append(key)
        for device, ledger in ledgers.items():
            held = sum(wanted[key] for key, where in running.items() if where == device)  # type: ignore[index]
            assert ledger.reserved_bytes == held + ledger.idle_count * 5 <= ledger.budget_bytes
            assert 0 <= ledger.idle_count <= slots - ledger.running_count
        # Nothing runs, somebody waits, and nobody was let in: that would be a deadlock.
        assert running or not len(line)
        if running:
            ended = chance.choice(list(running))  # type: ignore[attr-defined]
            ledgers[running.pop(ended)].release(ended, process_lives=chance.random() < 0.8)  # type: ignore[attr-defined]
    assert sorted(started) == list(wanted)  # type: ignore[type-var]


@given(st.integers(1, 5), st.integers(2, 4))
def test_a_large_job_is_not_starved_by_an_endless_stream_of_small_ones(patience: int, slots: int) -> None:
    ledgers, line = {"host": MemoryPool(10, slots)}, JobQueue(patience)
    running: list[Hashable] = []

    def start_all() -> None:
        while (admitted := line.admit_next(ledgers)) is not None:
            running.append(admitted[0])

    line.add("small -1", 2)
    start_all()
    line.add("large", 10)
    for number in range(3 * patience + 3 * slots):
        line.add(f"small {number}", 2)
        start_all()
        if "large" in running:
            assert len(running) == 1
            return
        ledgers["host"].release(running.pop(0), process_lives=False)
        start_all()
    assert "large" in running


def test_a_starved_job_closes_one_device_and_leaves_the_others_open() -> None:
    ledgers, line = {"a": MemoryPool(10, 2), "b": MemoryPool(10, 2)}, JobQueue(patience=0)
    ledgers["a"].admit("x", 4)
    ledgers["b"].admit("y", 4)
    line.add("large", 10)
    line.add("small", 4)
    assert line.admit_next(ledgers) == ("small", "a", 0)
    line.add("another", 4)
    assert line.admit_next(ledgers) is None  # b is kept free for the large one, a has no slot left
    ledgers["b"].release("y", process_lives=False)
    assert line.admit_next(ledgers) == ("large", "b", 0)


def test_a_job_takes_over_an_idle_process_and_ends_others_only_where_it_needs_their_room() -> None:
    ledger = MemoryPool(100, slot_count=3, idle_bytes=20, idle_count=3)
    assert ledger.reserved_bytes == 60
    assert ledger.admit("small", 40) == 0  # 40 + 2 * 20
    assert ledger.processes_in_the_way(41) == 1  # 40 + 41 + 20 is one too much
    assert ledger.admit("large", 41) == 1
    assert ledger.idle_count == 0 and ledger.reserved_bytes == 81
    ledger.release("large", process_lives=True)
    assert ledger.reserved_bytes == 60


def test_a_job_that_does_not_fit_now_or_ever_is_not_admitted() -> None:
    ledger = MemoryPool(10, slot_count=2)
    ledger.admit("first", 6)
    assert ledger.processes_in_the_way(5) is None and ledger.fits_alone(5)
    with pytest.raises(
        ValueError,
        match="expected a free slot and 5 free bytes, got 1 of 2 slots and 6 of 10 bytes",
    ):
        ledger.admit("second", 5)
    assert not ledger.fits_alone(11)


def test_a_job_can_neither_run_nor_wait_twice() -> None:
    ledger, line = MemoryPool(10, slot_count=2), JobQueue()
    ledger.admit("job", 1)
    with pytest.raises(ValueError, match="running already"):
        ledger.admit("job", 1)
    line.add("job", 1)
    with pytest.raises(ValueError, match="waiting already"):
        line.add("job", 1)


def test_the_emptiest_device_comes_first() -> None:
    ledgers = {"a": MemoryPool(10, 2), "b": MemoryPool(20, 2)}
    line = JobQueue()
    for number in range(4):
        line.add(number, 5)
    places = [line.admit_next(ledgers) for _ in range(4)]
    assert [place and place[1] for place in places] == ["b", "b", "a", "a"]
