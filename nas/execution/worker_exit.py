"""Find out why a worker process has died: its candidate crashed it, it held too much memory, or it was killed.

A dying worker leaves a record if it can: the memory watch writes one, `faulthandler` writes the stack trace of a crash,
and an exit that the worker's own code requests is recorded. A death without a record is a kill from outside, unless the
system's out-of-memory killer was active.
"""

import faulthandler
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from nas.common.boundary import read_text, reading
from nas.common.errors import NasError
from nas.common.units import format_bytes
from nas.search.trial import FailureKind, to_count

_MEMORY = "memory"
_EXIT = "exit"


@dataclass(frozen=True)
class WorkerExit:
    """Why a worker process has died; the fields are those of `nas.search.trial.Failure`."""

    kind: FailureKind
    cause: str
    reason: str
    measured_peak_bytes: int | None = None


class ExitRecord:
    """File in which a worker process records why it dies, while it still can.

    Args:
        path: Path of the file, which `read_worker_exit` reads.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._trace: IO[str] | None = None

    def begin(self) -> None:
        """Record crashes of this process, and exits that its code requests, from now on."""
        # The file stays open: a crashing process can write to an open file and do little else.
        self._trace = self._path.with_suffix(".trace").open("w")
        # Disabled first: if it was enabled before, other handlers may have been installed since.
        faulthandler.disable()
        faulthandler.enable(self._trace, all_threads=False)
        leave = os._exit

        def recorded_exit(status: int) -> Any:
            self._write({"kind": _EXIT, "status": status})
            leave(status)

        os._exit = recorded_exit

    def end_for_memory(self, measured_bytes: int, grant_bytes: int) -> None:
        """Record that the process holds more memory than it was granted, and kill it."""
        self._write({"kind": _MEMORY, "measured": measured_bytes, "grant": grant_bytes})
        os.kill(os.getpid(), 9)  # immediately, without waiting for other threads

    def _write(self, values: dict[str, Any]) -> None:
        with self._path.open("w") as file:
            json.dump(values, file)


def read_worker_exit(path: Path, *, was_memory_killed: bool) -> WorkerExit:
    """Return why a dead worker has died.

    Args:
        path: Path of its `ExitRecord`; the file need not exist.
        was_memory_killed: Whether the system's out-of-memory killer has been active since the process started.
    """
    trace_path = path.with_suffix(".trace")
    if path.exists():
        return _recorded_exit(path)
    trace = trace_path.read_text(errors="replace") if trace_path.exists() else ""
    lines = [line.strip() for line in trace.splitlines() if line.strip()]
    if lines:
        place = next((line for line in lines if line.startswith("File ")), "")
        return WorkerExit("crash", lines[0], f"its worker crashed: {lines[0]}" + (f" in {place}" if place else ""))
    if was_memory_killed:
        return WorkerExit("memory", "out of memory", "its worker was killed by the system's out-of-memory killer")
    return WorkerExit("killed_externally", "killed", "its worker was killed from outside")


def _recorded_exit(path: Path) -> WorkerExit:
    """Return the exit in a record; a worker that died while it wrote the record leaves a partial one."""
    try:
        with reading(path, expected="the exit of a worker"):
            values = json.loads(read_text(path, expected="the exit of a worker"))
            if values["kind"] == _MEMORY:
                measured, grant = to_count("measured", values["measured"]), to_count("grant", values["grant"])
                reason = f"its worker held {format_bytes(measured)} of memory, but was granted {format_bytes(grant)}"
                return WorkerExit("memory", "out of memory", reason, measured)
            status = str(int(values["status"]))
    except NasError:
        status = "unknown"
    return WorkerExit("crash", "exit", f"its worker exited with status {status}")


def memory_kill_count(path: Path = Path("/proc/vmstat")) -> int:
    """Return the number of processes that the system's out-of-memory killer has killed since the system started.

    Args:
        path: Path of Linux's counters; without them the count is 0.
    """
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
