"""Groups of processes, here of threads: values, lost processes, addresses."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import distributed

from nas.training.distributed import GradientGroup, GroupBroken, SingleProcessGroup, distributed_group, free_address
from tests.support.groups import TIMEOUT_SECONDS, run_group


def join(rank: int, address: str, **changes: Any) -> None:
    """Join a group of two and leave it."""
    with distributed_group(**{"rank": rank, "size": 2, "address": address, "timeout_seconds": 0.5, **changes}):
        pass


def test_broadcast_copies_the_values_of_the_owner() -> None:
    def work(group: GradientGroup) -> list[list[float]]:
        received = []
        for owner in range(group.size):
            buffer = torch.tensor([1.0, 10.0]) * (group.rank + 1)
            group.broadcast(buffer, owner)
            received.append(buffer.tolist())
        return received

    assert run_group(3, work) == [[[1, 10], [2, 20], [3, 30]]] * 3


def test_sum_is_that_of_all_processes_and_in_all_of_them() -> None:
    def work(group: GradientGroup) -> list[float]:
        buffer = torch.tensor([1.0, 10.0]) * (group.rank + 1)
        group.sum(buffer)
        return buffer.tolist()

    assert run_group(3, work) == [[6, 60]] * 3


@pytest.mark.parametrize(("flags", "expected"), [((0, 0, 0), False), ((0, 0, 1), True), ((1, 0, 1), True)])
def test_any_is_true_if_one_flag_is_true(flags: tuple[int, ...], expected: bool) -> None:
    assert run_group(3, lambda group: group.any(bool(flags[group.rank]))) == [expected] * 3


def test_broadcast_bytes_returns_the_bytes_of_rank_0() -> None:
    assert run_group(2, lambda group: group.broadcast_bytes(b"from 0" if group.rank == 0 else b"")) == [b"from 0"] * 2


def test_single_process_keeps_its_values() -> None:
    group, buffer = SingleProcessGroup(), torch.tensor([3.0])
    group.broadcast(buffer, 0)
    group.sum(buffer)
    assert buffer.item() == 3 and group.any(True) and not group.any(False)
    assert group.broadcast_bytes(b"mine") == b"mine" and (group.rank, group.size) == (0, 1)


def test_error_in_one_process_ends_the_wait_of_the_others() -> None:
    def work(group: GradientGroup) -> None:
        if group.rank == 1:
            raise KeyError("the cause")
        group.any(False)

    outcomes = run_group(3, work)
    assert [type(outcome) for outcome in outcomes] == [GroupBroken, KeyError, GroupBroken]
    assert "process 0 of 3: lost another process" in str(outcomes[0])
    assert "imed out" not in str(outcomes[0].__cause__)


def test_closing_a_group_breaks_it_for_the_others() -> None:
    is_broken = threading.Event()

    def work(group: GradientGroup) -> bool:
        if group.rank == 1:
            group.close()
            return is_broken.wait(TIMEOUT_SECONDS / 2)
        with pytest.raises(GroupBroken):
            group.broadcast(torch.zeros(3), 1)
        is_broken.set()
        return True

    assert run_group(2, work) == [True, True]


def test_process_that_hangs_is_lost_after_the_timeout() -> None:
    is_over = threading.Event()

    def work(group: GradientGroup) -> None:
        if group.rank == 1:
            is_over.wait(TIMEOUT_SECONDS)
            return
        try:
            group.any(False)
        finally:
            is_over.set()

    waiting, _ = run_group(2, work, timeout_seconds=0.5)
    assert isinstance(waiting, GroupBroken) and "did not respond within 0.5 s" in str(waiting)
    assert "imed out" in str(waiting.__cause__)


@pytest.mark.parametrize("rank", [0, 1])
def test_incomplete_group_names_its_address(rank: int) -> None:
    address = free_address()
    with pytest.raises(GroupBroken, match=f"process {rank} of 2: cannot connect .* at {address} within 0.5 s"):
        join(rank, address)


def test_used_address_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(GroupBroken, match=f"{address} .*[Aa]ddress already in use"):
            join(0, address)


def test_group_listens_on_its_own_address_only() -> None:
    address = free_address("127.0.0.1")
    port = int(address.rpartition(":")[2])
    with distributed_group(rank=0, size=1, address=address, timeout_seconds=5):
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), timeout=5)


def test_address_can_be_reused() -> None:
    address = free_address()

    def run(rank: int) -> bool:
        with distributed_group(rank=rank, size=2, address=address, timeout_seconds=TIMEOUT_SECONDS) as group:
            return group.any(rank == 1)

    with ThreadPoolExecutor(2) as pool:
        assert [list(pool.map(run, range(2))) for _ in range(2)] == [[True, True]] * 2


def test_unknown_backend_is_rejected() -> None:
    with pytest.raises(ValueError, match="expected one of gloo, nccl, got 'mpi'"):
        join(0, free_address(), backend="mpi")


def test_private_names_of_torch_exist() -> None:
    """Guards `_gloo_group`: if this fails after an upgrade of torch, adapt that function and the versions here."""
    gloo: Any = distributed.ProcessGroupGloo
    missing = [name for name in ("_timeout", "_devices") if not hasattr(gloo._Options(), name)]
    assert not missing and hasattr(gloo, "create_device"), f"torch {torch.__version__}; written for torch 2.13"
    assert torch.__version__.startswith("2.13."), "check that a public constructor now takes the address to bind to"
