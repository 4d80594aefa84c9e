"""The Ray that runs the workers: a private one that is started here, a cluster that is joined, or the program's own."""

import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from nas.common.boundary import reason_of
from nas.common.errors import ExecutionError
from nas.common.interrupt import SAVING_SIGNALS
from nas.execution.cluster_address import CONNECT_SECONDS, check_cluster, cluster_error, host_and_port
from nas.execution.placement import Placement
from nas.execution.ray.internals import dead_process, end_processes_at_once, loopback_only, silence_worker_logs
from nas.execution.temporary_place import RAY_DIRECTORY, TEMPORARY_PREFIX, temporary_place

_LOOK_SECONDS = 2.0
"""The time between two looks at the head of a cluster that was joined."""

_COMMON: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}


class RaySession(ABC):
    """A Ray to which this process is connected.

    Args:
        is_own: Whether this program has connected to it, and leaves it at the end.
        is_private: Whether this program has started it.
    """

    def __init__(self, *, is_own: bool, is_private: bool = False) -> None:
        self.is_own = is_own
        self.is_private = is_private

    @abstractmethod
    def loss(self) -> str | None:
        """Return why this Ray is of no use any more; None if it works."""

    @abstractmethod
    def restart(self) -> None:
        """Start Ray again after it was lost.

        Raises:
            ExecutionError: If it cannot be started, or was not started here.
        """

    @abstractmethod
    def close(self) -> None:
        """End this Ray, or leave it if it was not started here."""


class PrivateRay(RaySession):
    """A Ray on this machine that lives as long as this process.

    It listens on the loopback interface only, and its files are in a directory of this user only. Its processes ignore
    the signals that ask this program to save: terminals and batch systems send them to all processes at once, and
    nothing could be saved without workers.

    Args:
        placement: The number of workers and threads for which it needs CPUs.
        on_note: Callback that receives a line of text if its files are in an unexpected place.

    Raises:
        ExecutionError: If it cannot be started.
    """

    def __init__(self, placement: Placement, on_note: Callable[[str], None]) -> None:
        super().__init__(is_own=True, is_private=True)
        self._cpu_count = max(os.cpu_count() or 1, (placement.worker_count or 0) * (placement.threads or 1))
        self._place, explanation = temporary_place()
        self._directory: Path | None = None
        if explanation:
            on_note(explanation)
        _set_environment()
        # A private Ray would start one process per core in advance, none of which has the environment of a worker.
        os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
        self._start()

    def _start(self) -> None:
        silence_worker_logs()
        try:
            self._directory = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=self._place))
            with _signals_kept(), loopback_only():
                ray.init(
                    address="local",
                    num_cpus=self._cpu_count,
                    include_dashboard=False,
                    object_store_memory=100 * 2**20,  # results are small; features and weights are memory-mapped files
                    _temp_dir=str(self._directory / RAY_DIRECTORY),  # which Ray opens to all users
                    **_COMMON,
                )
        except BaseException as error:
            self.close()
            if not _is_failed_start(error):
                raise
            raise ExecutionError(
                f"Ray: cannot be started: {reason_of(error)}; expected to start its processes with temporary files in "
                f"{self._place}; --workers 0 works without it"
            ) from error

    def loss(self) -> str | None:
        if self._directory is None:
            return "it could not be started again"
        name = dead_process()
        return None if name is None else f"its process {name} has ended"

    def restart(self) -> None:
        self.close()
        self._start()

    def close(self) -> None:
        end_processes_at_once()
        ray.shutdown()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None


class JoinedRay(RaySession):
    """A cluster that others have started.

    Args:
        address: The address of the cluster; None to use the Ray of this process, which another program has started.

    Raises:
        ExecutionError: If there is no cluster at the address.
    """

    def __init__(self, address: str | None) -> None:
        super().__init__(is_own=address is not None)
        self._looked_at = time.monotonic()
        self._loss: str | None = None
        if address is not None:
            _join(address)
        self._name = address or "of this process"
        self._head = host_and_port(str(ray.get_runtime_context().gcs_address))

    def loss(self) -> str | None:
        if self._loss is None and time.monotonic() - self._looked_at > _LOOK_SECONDS:
            self._looked_at = time.monotonic()
            self._loss = self._look()
        return self._loss

    def _look(self) -> str | None:
        if not ray.is_initialized():
            return "it was shut down"
        if self._head is None:
            return None
        try:
            socket.create_connection(self._head, timeout=CONNECT_SECONDS).close()
        except OSError as error:
            return f"its head node does not answer ({reason_of(error)})"
        return None

    def restart(self) -> None:
        raise ExecutionError(
            f"Ray cluster {self._name}: was lost: {self._loss}; everything finished is saved; resume the run when the "
            "cluster is back"
        )

    def close(self) -> None:
        if self.is_own:
            ray.shutdown()  # only leaves the cluster


def open_session(address: str | None, placement: Placement, on_note: Callable[[str], None]) -> RaySession:
    """Start a private Ray, join a cluster, or use the Ray that this process has started already.

    Args:
        address: The address of the cluster; None to start a private Ray.
        placement: The number of workers and threads for which a private Ray needs CPUs.
        on_note: Callback that receives a line of text if something about Ray is unexpected.

    Raises:
        ExecutionError: If there is no cluster at the address, or Ray cannot be started.
    """
    if ray.is_initialized():
        return JoinedRay(None)
    return PrivateRay(placement, on_note) if address is None else JoinedRay(address)


def _join(address: str) -> None:
    _set_environment()
    silence_worker_logs()
    check_cluster(address)
    try:
        with _signals_kept():
            ray.init(address=address, **_COMMON)
    except Exception as error:
        if not _is_failed_start(error):
            raise
        raise cluster_error(address, reason_of(error)) from error


def _is_failed_start(error: BaseException) -> bool:
    """Return whether an error of `ray.init` is about its processes or the cluster; ConnectionError is an OSError."""
    # Ray raises a plain Exception for processes that take too long to start.
    return isinstance(error, OSError | ValueError | RuntimeError) or type(error) is Exception


def _set_environment() -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray prints the trace of an error whose reference is never read; every error that matters is read here.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Start Ray with `SAVING_SIGNALS` blocked, which its processes inherit, and keep this process's handlers.

    Signals that arrive meanwhile are handled at the end. Ray installs its own handler of SIGTERM in the main thread.
    """
    handler, before = signal.getsignal(signal.SIGTERM), signal.pthread_sigmask(signal.SIG_BLOCK, SAVING_SIGNALS)
    try:
        yield
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
