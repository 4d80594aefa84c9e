import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from nas.training.distributed import Alone, GradientGroup, GroupBroken, distributed_group, free_address

TIMEOUT_SECONDS = 20.0


def together(size: int, work: Callable[[GradientGroup], Any], timeout_seconds: float = TIMEOUT_SECONDS) -> list[Any]:
    """What every process of a group comes to, here each in a thread: a value, or the error that it raised."""
    address = free_address()

    def run(rank: int) -> Any:
        try:
            with distributed_group(rank=rank, size=size, address=address, timeout_seconds=timeout_seconds) as group:
                return work(group)
        except Exception as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size)))


def join(rank: int, address: str, **changes: Any) -> None:
    """Come into a group of two for a moment."""
    with distributed_group(**{"rank": rank, "size": 2, "address": address, "timeout_seconds": 0.5, **changes}):
        pass


def test_everybody_gets_the_values_of_the_owner() -> None:
    def work(group: GradientGroup) -> list[list[float]]:
        received = []
        for owner in range(group.size):
            buffer = torch.tensor([1.0, 10.0]) * (group.rank + 1)
            group.broadcast(buffer, owner)
            received.append(buffer.tolist())
        return received

    assert together(3, work) == [[[1, 10], [2, 20], [3, 30]]] * 3


@pytest.mark.parametrize(("claims", "expected"), [((0, 0, 0), False), ((0, 0, 1), True), ((1, 0, 1), True)])
def test_what_is_true_of_any_is_agreed_by_all(claims: tuple[int, ...], expected: bool) -> None:
    assert together(3, lambda group: group.agree(bool(claims[group.rank]))) == [expected] * 3


def test_everybody_gets_the_bytes_of_rank_0_however_long_they_are() -> None:
    assert together(2, lambda group: group.broadcast_bytes(b"from 0" if group.rank == 0 else b"")) == [b"from 0"] * 2


def test_one_process_alone_agrees_with_itself_and_keeps_its_values() -> None:
    group, buffer = Alone(), torch.tensor([3.0])
    group.broadcast(buffer, 0)
    assert buffer.item() == 3 and group.agree(True) and not group.agree(False)
    assert group.broadcast_bytes(b"mine") == b"mine" and (group.rank, group.size) == (0, 1)


def test_an_error_of_one_ends_the_wait_of_the_others_at_once() -> None:
    def work(group: GradientGroup) -> None:
        if group.rank == 1:
            raise KeyError("the cause")
        group.agree(False)

    started = time.monotonic()
    outcomes = together(3, work)
    assert time.monotonic() - started < TIMEOUT_SECONDS / 4
    assert [type(outcome) for outcome in outcomes] == [GroupBroken, KeyError, GroupBroken]
    assert "process 0 of 3 that train together lost another one" in str(outcomes[0])


def test_who_closes_a_group_is_lost_to_the_others_even_if_the_group_is_still_at_hand() -> None:
    are_told = threading.Event()

    def work(group: GradientGroup) -> bool:
        if group.rank == 1:
            group.close()
            return are_told.wait(TIMEOUT_SECONDS / 2)
        with pytest.raises(GroupBroken):
            group.broadcast(torch.zeros(3), 1)
        are_told.set()
        return True

    assert together(2, work) == [True, True]


def test_a_process_that_falls_silent_is_lost_after_the_timeout() -> None:
    is_over = threading.Event()

    def work(group: GradientGroup) -> None:
        if group.rank == 1:
            is_over.wait(TIMEOUT_SECONDS)
            return
        try:
            group.agree(False)
        finally:
            is_over.set()

    silent, _ = together(2, work, timeout_seconds=0.5)
    assert isinstance(silent, GroupBroken) and "did not answer within 0.5 s" in str(silent)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_group_that_does_not_come_together_says_where_it_waited(rank: int) -> None:
    address = free_address()
    with pytest.raises(GroupBroken, match=f"process {rank} of 2 .* by {address} within 0.5 s"):
        join(rank, address)


def test_an_address_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(GroupBroken, match=f"{address} .*[Aa]ddress already in use"):
            join(0, address)


def test_nobody_else_can_come_in_by_another_address_of_the_machine() -> None:
    address = free_address("127.0.0.1")
    port = int(address.rpartition(":")[2])
    with distributed_group(rank=0, size=1, address=address, timeout_seconds=5):
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), timeout=5)


def test_a_group_can_come_together_again_where_it_was() -> None:
    address = free_address()

    def run(rank: int) -> bool:
        with distributed_group(rank=rank, size=2, address=address, timeout_seconds=TIMEOUT_SECONDS) as group:
            return group.agree(rank == 1)

    with ThreadPoolExecutor(2) as pool:
        assert [list(pool.map(run, range(2))) for _ in range(2)] == [[True, True]] * 2


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="one of gloo, nccl, got 'mpi'"):
        join(0, free_address(), backend="mpi")
