"""Why a worker process died: by its candidate's doing, by its memory, or from outside.

A worker leaves a note where it can: the watchdog's word, the interpreter's trace of a crash (`faulthandler`), an exit
that its code asked for. A death without a note is a kill from outside, unless the system's out-of-memory killer was at
work.
"""

import faulthandler
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from nas.common.units import format_bytes
from nas.search.trial import FailureKind

_MEMORY = "memory"
_EXIT = "exit"


@dataclass(frozen=True)
class WorkerExit:
    """Why a worker died; see `nas.search.trial.Failure`."""

    kind: FailureKind
    cause: str
    reason: str
    measured_peak_bytes: int | None = None


class ExitRecord:
    """Where a worker process writes why it dies, while it still can.

    Args:
        path: Read by whoever finds it dead.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._trace: IO[str] | None = None

    def begin(self) -> None:
        """From now on this process notes crashes and exits that its code asks for."""
        # Kept open: a crashing process can write to an open file and do little else.
        self._trace = self._path.with_suffix(".trace").open("w")
        # Anew, if it was enabled before: others may have put handlers of their own in place since.
        faulthandler.disable()
        faulthandler.enable(self._trace, all_threads=False)
        leave = os._exit

        def noted_exit(status: int) -> Any:
            self._write({"kind": _EXIT, "status": status})
            leave(status)

        os._exit = noted_exit

    def end_for_memory(self, measured_bytes: int, grant_bytes: int) -> None:
        """Note that the process holds more than it was granted, and end it."""
        self._write({"kind": _MEMORY, "measured": measured_bytes, "grant": grant_bytes})
        os.kill(os.getpid(), 9)  # at once, whatever its other threads do

    def _write(self, values: dict[str, Any]) -> None:
        with self._path.open("w") as file:
            json.dump(values, file)


def read_worker_exit(path: Path, *, was_memory_killed: bool) -> WorkerExit:
    """What the note of a dead worker says.

    Args:
        path: As given to its `ExitRecord`; there need not be a note.
        was_memory_killed: Whether the system's out-of-memory killer was at work in the meantime.
    """
    trace_path = path.with_suffix(".trace")
    if path.exists():
        try:
            values = json.loads(path.read_text())
        except ValueError:
            values = {"kind": _EXIT, "status": "unknown"}  # it died while it wrote
        if values["kind"] == _MEMORY:
            measured, grant = int(values["measured"]), int(values["grant"])
            reason = f"its worker held {format_bytes(measured)}, granted were {format_bytes(grant)}"
            return WorkerExit("memory", "out of memory", reason, measured)
        return WorkerExit("crash", "exit", f"its worker ended itself with status {values['status']}")
    trace = trace_path.read_text(errors="replace") if trace_path.exists() else ""
    if trace:
        lines = [line.strip() for line in trace.splitlines() if line.strip()]
        place = next((line for line in lines if line.startswith("File ")), "")
        return WorkerExit("crash", lines[0], f"its worker crashed: {lines[0]}" + (f" in {place}" if place else ""))
    if was_memory_killed:
        return WorkerExit("memory", "out of memory", "its worker was killed by the system for want of memory")
    return WorkerExit("killed_externally", "killed", "its worker was killed from outside")


def memory_kill_count() -> int:
    """How often the system's out-of-memory killer has killed since it started (Linux); 0 where nobody counts."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
