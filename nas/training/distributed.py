"""Communication between processes that train one model together.

Each group is an object built on the process groups of torch.distributed, not the process-wide default group, so that it
lives exactly as long as one training. A process that leaves a group, or is killed, closes its connections, which at
once ends the wait of every other process.
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

from nas.common.devices import CPU

BACKENDS = ("gloo", "nccl")

_c10d: Any = distributed  # its annotations omit the process group classes


class GroupBroken(Exception):
    """Raised when a process of the group has failed, died or stopped responding."""


class GradientGroup(ABC):
    """The processes of one training. All of them call the same methods in the same order.

    Args:
        rank: The number of this process, from 0.
        size: The number of processes.
    """

    def __init__(self, *, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size

    @abstractmethod
    def broadcast(self, buffer: Tensor, owner: int) -> None:
        """Copy the values of one process to all others.

        Args:
            buffer: The values, read on the owner and overwritten on the others; contiguous, with the same size and
                dtype on all processes.
            owner: The rank of the process that provides the values.

        Raises:
            GroupBroken: If a process is lost.
        """

    @abstractmethod
    def sum(self, buffer: Tensor) -> None:
        """Replace the values of every process by their sum, which is equal to the last bit in all processes.

        Args:
            buffer: The values of this process, contiguous, with the same size and dtype on all processes.

        Raises:
            GroupBroken: If a process is lost.
        """

    @abstractmethod
    def any(self, flag: bool) -> bool:
        """Return whether the flag is true on any process.

        Raises:
            GroupBroken: If a process is lost.
        """

    @abstractmethod
    def close(self) -> None:
        """Leave the group; processes that wait for this one raise `GroupBroken`. May be called repeatedly."""

    def broadcast_int(self, number: int) -> int:
        """Return the number that rank 0 passes.

        Raises:
            GroupBroken: If a process is lost.
        """
        buffer = torch.tensor([number])
        self.broadcast(buffer, 0)
        return int(buffer)

    def broadcast_bytes(self, content: bytes) -> bytes:
        """Return the bytes that rank 0 passes.

        Raises:
            GroupBroken: If a process is lost.
        """
        size = self.broadcast_int(len(content))
        is_owner = self.rank == 0
        buffer = torch.frombuffer(bytearray(content) if is_owner else bytearray(size), dtype=torch.uint8)
        self.broadcast(buffer, 0)
        return content if is_owner else buffer.numpy().tobytes()


class SingleProcessGroup(GradientGroup):
    """The group of a training in a single process."""

    def __init__(self) -> None:
        super().__init__(rank=0, size=1)

    def broadcast(self, buffer: Tensor, owner: int) -> None:
        del buffer, owner

    def sum(self, buffer: Tensor) -> None:
        del buffer

    def any(self, flag: bool) -> bool:
        return flag

    def close(self) -> None:
        pass


@contextmanager
def distributed_group(
    *, rank: int, size: int, address: str, backend: str = "gloo", timeout_seconds: float
) -> Iterator[GradientGroup]:
    """Connect to the other processes of a training, and leave the group at the end of the context.

    Args:
        rank: The number of this process, from 0; rank 0 listens at the address.
        size: The number of processes.
        address: The address `tcp://host:port` of rank 0, the same for all processes; see `free_address`.
        backend: `gloo` sends all tensors over TCP. `nccl` sends CUDA tensors directly between GPUs and requires one GPU
            per process.
        timeout_seconds: The longest wait for another process; must exceed the time that the slowest process takes for
            its share of a step, or for a checkpoint. Only detects processes that hang; a process that dies is detected
            at once.

    Raises:
        GroupBroken: If the processes do not connect within the timeout.
        ValueError: If the backend is unknown.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend: unknown; expected one of {', '.join(BACKENDS)}, got {backend!r}")
    group = _ConnectedGroup(
        rank=rank, size=size, address=address, backend=backend, timeout=timedelta(seconds=timeout_seconds)
    )
    try:
        yield group
    finally:
        group.close()


def free_address(host: str = "127.0.0.1") -> str:
    """Return an unused address for `distributed_group`.

    Args:
        host: The name or address of this machine, which must run rank 0, as the other processes reach it.
    """
    with socket.create_server((host, 0)) as server:
        return f"tcp://{host}:{server.getsockname()[1]}"


class _ConnectedGroup(GradientGroup):
    """A group of several processes."""

    def __init__(self, *, rank: int, size: int, address: str, backend: str, timeout: timedelta) -> None:
        super().__init__(rank=rank, size=size)
        self._timeout_seconds = timeout.total_seconds()
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port or 0
        try:
            # Bound to the given host: by default rank 0 would listen on all network interfaces.
            listening = {"master_listen_fd": socket.create_server((host, port)).detach()} if rank == 0 else {}
            store = _c10d.TCPStore(
                host, port, size, is_master=rank == 0, timeout=timeout, wait_for_workers=False, **listening
            )
            hostname = _own_host(host, port)
            self._gloo = _gloo_group(store, rank=rank, size=size, timeout=timeout, hostname=hostname)
            self._nccl = None
            if backend == "nccl":
                self._nccl = _c10d.ProcessGroupNCCL(_c10d.PrefixStore(backend, store), rank, size, timeout)
        except (OSError, RuntimeError) as error:
            raise GroupBroken(
                f"process {rank} of {size}: cannot connect to the other processes at {address} within "
                f"{self._timeout_seconds:g} s: {str(error).splitlines()[0]}"
            ) from error

    def broadcast(self, buffer: Tensor, owner: int) -> None:
        with self._translated_errors():
            if self._nccl is not None and buffer.is_cuda:
                self._gloo.barrier().wait()  # NCCL does not notice a dead process, so synchronize by Gloo first
                self._nccl.broadcast(buffer, owner).wait()
            else:
                with _on_host(buffer) as values:
                    self._gloo.broadcast(values, owner).wait()

    def sum(self, buffer: Tensor) -> None:
        with self._translated_errors():
            if self._nccl is not None and buffer.is_cuda:
                self._gloo.barrier().wait()
                self._nccl.allreduce(buffer).wait()
            else:
                with _on_host(buffer) as values:
                    self._gloo.allreduce(values).wait()

    def any(self, flag: bool) -> bool:
        votes = torch.tensor([int(flag)])
        with self._translated_errors():
            self._gloo.allreduce(votes).wait()
        return bool(votes.item())

    def close(self) -> None:
        # These are the only references: only destruction closes the connections; shutdown() and abort() do not.
        self._gloo = self._nccl = None

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise GroupBroken(
                f"process {self.rank} of {self.size}: lost another process, which failed, died or did not respond "
                f"within {self._timeout_seconds:g} s"
            ) from error


@contextmanager
def _on_host(buffer: Tensor) -> Iterator[Tensor]:
    """Yield the values of a tensor in the host's memory, from which Gloo sends, and take over what they become."""
    if buffer.device == CPU:
        yield buffer
        return
    values = buffer.cpu()
    yield values
    buffer.copy_(values)


def _gloo_group(store: Any, *, rank: int, size: int, timeout: timedelta, hostname: str) -> Any:
    """Return a Gloo group that is bound to one address of this machine.

    The only place that uses private names of torch. With the public constructor every process binds to the address that
    the name of its machine resolves to, which may be a loopback address that no other machine reaches.
    """
    options = _c10d.ProcessGroupGloo._Options()
    options._timeout = timeout
    options._devices = [_c10d.ProcessGroupGloo.create_device(hostname=hostname)]
    return _c10d.ProcessGroupGloo(store, rank, size, options)


def _own_host(host: str, port: int) -> str:
    """Return the address of this machine from which it reaches the host."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)  # sends nothing: connecting a datagram socket only selects a route
        return str(probe.getsockname()[0])
