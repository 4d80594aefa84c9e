"""Progress of a long run: bars on a terminal, plain lines in a pipe or a log."""

import time
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from nas.common.output import lossless_output, visible


class Reporter(AbstractContextManager["Reporter"], ABC):
    """Receives notes and progress from a run, and displays them."""

    @abstractmethod
    def note(self, text: str) -> None:
        """Report an event that is worth keeping, in one line."""

    @abstractmethod
    def progress(self, phase: str, done: int, total: int | None, detail: str = "") -> None:
        """Report the progress of a phase.

        Callers may report every step; the reporter decides how often to update the display.

        Args:
            phase: The name of the phase.
            done: The number of finished steps.
            total: The number of all steps; None if unknown.
            detail: A short text to show after the count.
        """

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class ProgressOnly(Reporter):
    """Forwards progress to another reporter and drops notes.

    Args:
        reporter: The reporter that receives the progress.
    """

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def note(self, text: str) -> None:
        del text

    def progress(self, phase: str, done: int, total: int | None, detail: str = "") -> None:
        self._reporter.progress(phase, done, total, detail)


class LineReporter(Reporter):
    """Writes plain lines, for pipes and logs.

    Each note is one line. A phase gets one line when it starts, one when it ends, and one every 15 seconds in between.

    Args:
        stream: The stream to write to.
    """

    _INTERVAL_SECONDS = 15.0

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown: tuple[str, int] | None = None
        self._shown_at = 0.0

    def note(self, text: str) -> None:
        print(visible(text), file=self._stream, flush=True)

    def progress(self, phase: str, done: int, total: int | None, detail: str = "") -> None:
        now = time.monotonic()
        is_new_phase = self._shown is None or self._shown[0] != phase
        is_just_done = done == total and self._shown != (phase, done)
        if is_new_phase or is_just_done or now - self._shown_at >= self._INTERVAL_SECONDS:
            self._shown, self._shown_at = (phase, done), now
            count = f"{done}" if total is None else f"{done}/{total}"
            self.note(f"{phase}: {count}" + (f", {detail}" if detail else ""))


class TerminalReporter(Reporter):
    """Shows one progress bar per phase on a terminal; notes scroll above the bars.

    Args:
        stream: The terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<10}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
            console=Console(file=stream, highlight=False),
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "TerminalReporter":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def note(self, text: str) -> None:
        self._progress.console.print(visible(text), markup=False, emoji=False)

    def progress(self, phase: str, done: int, total: int | None, detail: str = "") -> None:
        if phase not in self._tasks:
            for task in self._tasks.values():
                self._progress.stop_task(task)
            self._tasks[phase] = self._progress.add_task(phase, total=total, detail=detail)
        self._progress.update(self._tasks[phase], completed=done, total=total, detail=visible(detail))


def build_reporter() -> Reporter:
    """Return a reporter for standard output: bars on a terminal, lines everywhere else."""
    stream = lossless_output()
    return TerminalReporter(stream) if stream.isatty() else LineReporter(stream)
