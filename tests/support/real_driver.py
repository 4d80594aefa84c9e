"""The whole program as a process of its own, with real Ray workers: watched, signalled and killed from outside."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from nas.run.wording import STAGE_VERBS
from tests.support.paths import REPOSITORY

_FINISHED = re.compile(r"^(?:#(\d+)|(default)) ([a-z ]+): \w+ ([\d.]+)[, ]", re.MULTILINE)
_STAGES = {verb: stage for stage, verb in STAGE_VERBS.items()}

PHASES = {
    "start-up": "",
    "supernet": r"^supernet: \d+/",
    "candidates": r"^Phase: screening$",
    "finalists": r"^Phase: full training$",
    "default": r"^Training the PMF default",
    "conclusion": r"^Search: \d+ screened",
}
"""The line by which each phase begins, in order."""


def finished_models(output: str) -> list[tuple[str, str, str]]:
    """Return the models that the program has reported as finished: number or `default`, stage and printed score."""
    return [
        (number or default, _STAGES[verb], score)
        for number, default, verb, score in _FINISHED.findall(output)
        if verb in _STAGES
    ]


_LOOK_SECONDS = 0.01

_HANG_SECONDS = 480.0
"""After so long it is taken to hang: several times what the slowest machine needs."""


class RealDriver:
    """`run_search.py` with some arguments, started.

    Args:
        arguments: Of the command line.
        directory: Made here, for this driver alone: as the working directory it tells the driver's processes, those
            that its Ray starts too, from all others, even when the driver is dead.
    """

    def __init__(self, *arguments: str | Path, directory: Path) -> None:
        directory.mkdir(parents=True)
        self.directory = directory.resolve()
        self._output, self._errors = directory / "output", directory / "errors"
        with self._output.open("w") as output, self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, str(REPOSITORY / "run_search.py"), *map(str, arguments)],
                stdout=output,
                stderr=errors,
                cwd=directory,
                env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},
                start_new_session=True,  # a process group of its own, as a shell gives to what it starts
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

    @property
    def errors(self) -> str:
        return self._errors.read_text()

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    @property
    def phase(self) -> str:
        """The last phase that it has said to have begun."""
        output = self.output
        return [name for name, mark in PHASES.items() if re.search(mark, output, re.MULTILINE)][-1]

    def wait_for(self, pattern: str, timeout_seconds: float = _HANG_SECONDS) -> bool:
        """Wait for a line of output; returns whether it came, and not the driver's end or the time's."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            is_running = self.is_running  # before looking, so that its last words are seen
            if re.search(pattern, self.output, re.MULTILINE):
                return True
            if not is_running:
                return False
            time.sleep(_LOOK_SECONDS)
        return False

    def finish(self, timeout_seconds: float = _HANG_SECONDS) -> int:
        """Wait for its end; returns the exit status, negative for a signal.

        Raises:
            subprocess.TimeoutExpired: If it does not end.
        """
        return self.process.wait(timeout_seconds)

    def interrupt(self) -> None:
        """Ctrl-C, which a terminal sends to all processes of the group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def kill(self) -> None:
        """`kill -9` of the driver alone."""
        self.process.kill()
        self.process.wait()

    def kill_worker(self, index: int) -> bool:
        """`kill -9` of one of its workers; returns whether there was any."""
        workers = self.workers()
        for worker in workers[index % len(workers) :][:1] if workers else []:
            try:
                os.kill(worker, signal.SIGKILL)
            except ProcessLookupError:
                continue
            return True
        return False

    def kill_workers(self, count: int, timeout_seconds: float = 60.0) -> bool:
        """`kill -9` of so many workers at once, when they are there; returns whether they came."""
        deadline = time.monotonic() + timeout_seconds
        while len(workers := self.workers()) < count:
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOOK_SECONDS)
        for worker in workers[:count]:
            os.kill(worker, signal.SIGKILL)
        return True

    def workers(self) -> list[int]:
        """Processes that run candidates now."""
        return sorted(process for process, title in self.processes().items() if title.startswith("ray::Actor"))

    def seconds_until_workers_end(self, timeout_seconds: float = 10.0) -> float | None:
        """How long its workers are still there; None for longer than that."""
        started = time.monotonic()
        while self.workers():
            if time.monotonic() - started > timeout_seconds:
                return None
            time.sleep(_LOOK_SECONDS)
        return time.monotonic() - started

    def processes(self) -> dict[int, str]:
        """Everything that is alive of it and of its Ray: number of the process and its title."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if Path(os.readlink(entry / "cwd")) == self.directory:
                        found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                except OSError:
                    continue  # it has ended meanwhile
        return found

    def end_everything(self) -> None:
        """`kill -9` of all of them, for a driver that hangs."""
        for process in self.processes():
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()
