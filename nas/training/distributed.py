"""Processes that train one model together: what they send each other, and how they learn that one of them is lost.

Built on the process groups of torch.distributed, each an object of its own here and no global state of the process, so
that it lives as long as one training: whoever leaves a group closes its connections, which ends every other process's
wait at once. A process that is killed leaves the same way.
"""

import socket
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor, distributed

BACKENDS = ("gloo", "nccl")

_c10d: Any = distributed  # its annotations leave out what is used here


class GroupBroken(Exception):
    """A group cannot go on: one of its processes failed, died or fell silent; its own error, if any, says why."""


class GradientGroup(ABC):
    """The processes of one training. All of them call the same methods in the same order.

    Args:
        rank: Number of this process, from 0.
        size: Number of processes.
    """

    def __init__(self, *, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size

    @abstractmethod
    def broadcast(self, buffer: Tensor, owner: int) -> None:
        """Give everybody the values of one process.

        Args:
            buffer: Read on the owner, overwritten on the others; contiguous, of one size and type on all.
            owner: Its rank.

        Raises:
            GroupBroken: If a process is lost.
        """

    @abstractmethod
    def agree(self, claim: bool) -> bool:
        """Whether it is true on any process.

        Raises:
            GroupBroken: If a process is lost.
        """

    @abstractmethod
    def close(self) -> None:
        """Leave; whoever waits for this process, or comes to do so, gets a `GroupBroken`. May be called again."""

    def first(self, number: int) -> int:
        """What rank 0 says, whatever the others say.

        Raises:
            GroupBroken: If a process is lost.
        """
        said = torch.tensor([number])
        self.broadcast(said, 0)
        return int(said)

    def broadcast_bytes(self, content: bytes) -> bytes:
        """What rank 0 says, whatever the others say.

        Raises:
            GroupBroken: If a process is lost.
        """
        size = self.first(len(content))
        is_mine = self.rank == 0
        buffer = torch.frombuffer(bytearray(content) if is_mine else bytearray(size), dtype=torch.uint8)
        self.broadcast(buffer, 0)
        return content if is_mine else buffer.numpy().tobytes()


class Alone(GradientGroup):
    """The group of a training in one process."""

    def __init__(self) -> None:
        super().__init__(rank=0, size=1)

    def broadcast(self, buffer: Tensor, owner: int) -> None:
        del buffer, owner  # nobody else is there

    def agree(self, claim: bool) -> bool:
        return claim

    def close(self) -> None:
        pass


@contextmanager
def distributed_group(
    *, rank: int, size: int, address: str, backend: str = "gloo", timeout_seconds: float
) -> Iterator[GradientGroup]:
    """Come together with the other processes of a training; leave in the end, with an error or without.

    Args:
        rank: Number of this process, from 0; rank 0 listens at the address.
        size: Number of processes.
        address: `tcp://host:port`, the same for all; see `free_address`.
        backend: `gloo` sends every tensor over TCP; `nccl` sends tensors on CUDA from GPU to GPU, and wants a GPU for
            each process.
        timeout_seconds: How long one waits for another: longer than the slowest takes for its share of a step, or for
            a checkpoint. Only a process that falls silent is found by that; one that dies is found at once.

    Raises:
        GroupBroken: If they do not come together in that time.
        ValueError: If there is no such backend.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    group = _Connected(
        rank=rank, size=size, address=address, backend=backend, timeout=timedelta(seconds=timeout_seconds)
    )
    try:
        yield group
    finally:
        group.close()


def free_address(host: str = "127.0.0.1") -> str:
    """An address for `distributed_group` that nobody listens at now.

    Args:
        host: Of rank 0, where this is to be called, as the others reach it.
    """
    with socket.create_server((host, 0)) as server:
        return f"tcp://{host}:{server.getsockname()[1]}"


class _Connected(GradientGroup):
    """A process group of torch.distributed."""

    def __init__(self, *, rank: int, size: int, address: str, backend: str, timeout: timedelta) -> None:
        super().__init__(rank=rank, size=size)
        self._timeout_seconds = timeout.total_seconds()
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port or 0
        try:
            # By default rank 0 would listen on every interface of its machine, and each process at what its machine's
            # name resolves to, which may be a loopback address.
            listening = {"master_listen_fd": socket.create_server((host, port)).detach()} if rank == 0 else {}
            store = _c10d.TCPStore(
                host, port, size, is_master=rank == 0, timeout=timeout, wait_for_workers=False, **listening
            )
            options = _c10d.ProcessGroupGloo._Options()
            options._timeout = timeout
            options._devices = [_c10d.ProcessGroupGloo.create_device(hostname=_own_host(host, port))]
            self._gloo = _c10d.ProcessGroupGloo(store, rank, size, options)
            self._nccl = None
            if backend == "nccl":
                options = _c10d.ProcessGroupNCCL.Options()
                options._timeout = timeout
                self._nccl = _c10d.ProcessGroupNCCL(_c10d.PrefixStore(backend, store), rank, size, options)
        except (OSError, RuntimeError) as error:
            raise GroupBroken(
                f"process {rank} of {size} that train together found no way to the others by {address} within "
                f"{self._timeout_seconds:g} s: {str(error).splitlines()[0]}"
            ) from error

    def broadcast(self, buffer: Tensor, owner: int) -> None:
        with self._lost_if_broken():
            if self._nccl is not None and buffer.is_cuda:
                self._gloo.barrier().wait()  # NCCL does not notice that a process has died, so meet before
                self._nccl.broadcast(buffer, owner).wait()
            else:
                self._gloo.broadcast(buffer, owner).wait()

    def agree(self, claim: bool) -> bool:
        votes = torch.tensor([int(claim)])
        with self._lost_if_broken():
            self._gloo.allreduce(votes).wait()
        return bool(votes.item())

    def close(self) -> None:
        # These are the only references: destruction alone closes the connections; shutdown() and abort() do not.
        self._gloo = self._nccl = None

    @contextmanager
    def _lost_if_broken(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise GroupBroken(
                f"process {self.rank} of {self.size} that train together lost another one, which failed, died or did "
                f"not answer within {self._timeout_seconds:g} s"
            ) from error


def _own_host(host: str, port: int) -> str:
    """The address of this machine from which it reaches the host."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)  # sends nothing: it is enough to choose a route
        return str(probe.getsockname()[0])
