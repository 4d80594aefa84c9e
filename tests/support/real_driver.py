"""The whole program in its own process, with real Ray workers: watched, signalled and killed from outside."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from nas.run.progress_lines import STAGE_VERBS
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
"""After this time a driver counts as hung: several times the time of the slowest machine."""


class RealDriver:
    """A running `run_search.py`.

    Args:
        arguments: The command line.
        directory: The working directory, which is created for this driver only: it identifies all processes of the
            driver and its Ray, even after the driver's death.
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
                start_new_session=True,  # its own process group, as a shell creates for each command
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
        """The last phase whose beginning the program has reported."""
        output = self.output
        return [name for name, mark in PHASES.items() if re.search(mark, output, re.MULTILINE)][-1]

    def wait_for(self, pattern: str, timeout_seconds: float = _HANG_SECONDS) -> bool:
        """Wait for a line of output; returns whether it came before the driver ended and the time was up."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            is_running = self.is_running  # read before the output, so that its last lines are seen
            if re.search(pattern, self.output, re.MULTILINE):
                return True
            if not is_running:
                return False
            time.sleep(_LOOK_SECONDS)
        return False

    def finish(self, timeout_seconds: float = _HANG_SECONDS) -> int:
        """Wait until the driver ends; returns its exit status, negative for a signal.

        Raises:
            subprocess.TimeoutExpired: If it does not end in time.
        """
        return self.process.wait(timeout_seconds)

    def interrupt(self) -> None:
        """Send SIGINT to all processes of the group, as a terminal does on Ctrl-C."""
        os.killpg(self.process.pid, signal.SIGINT)

    def kill(self) -> None:
        """Kill the driver, but not its workers, with SIGKILL."""
        self.process.kill()
        self.process.wait()

    def kill_worker(self, index: int) -> bool:
        """Kill one worker with SIGKILL; returns whether there was any."""
        workers = self.workers()
        for worker in workers[index % len(workers) :][:1] if workers else []:
            try:
                os.kill(worker, signal.SIGKILL)
            except ProcessLookupError:
                continue
            return True
        return False

    def kill_workers(self, count: int, timeout_seconds: float = 60.0) -> bool:
        """Wait for a number of workers and kill them with SIGKILL; returns whether they came in time."""
        deadline = time.monotonic() + timeout_seconds
        while len(workers := self.workers()) < count:
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOOK_SECONDS)
        for worker in workers[:count]:
            os.kill(worker, signal.SIGKILL)
        return True

    def kill_ray(self, name: str) -> bool:
        """Kill a process of Ray itself with SIGKILL; returns whether there was one."""
        for process, title in self.processes().items():
            if title and Path(title.split()[0]).name == name:
                os.kill(process, signal.SIGKILL)
                return True
        return False

    def workers(self) -> list[int]:
        """Return the processes that run jobs now."""
        return sorted(process for process, title in self.processes().items() if title.startswith("ray::WorkerActor"))

    def seconds_until_workers_end(self, timeout_seconds: float = 10.0) -> float | None:
        """Return the time until all workers have ended; None if they outlive the timeout."""
        started = time.monotonic()
        while self.workers():
            if time.monotonic() - started > timeout_seconds:
                return None
            time.sleep(_LOOK_SECONDS)
        return time.monotonic() - started

    def processes(self) -> dict[int, str]:
        """Return all living processes of the driver and its Ray: process number and title."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if Path(os.readlink(entry / "cwd")) == self.directory:
                        found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                except OSError:
                    continue  # the process has ended
        return found

    def end_everything(self) -> None:
        """Kill all processes of a driver that hangs with SIGKILL."""
        for process in self.processes():
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()
