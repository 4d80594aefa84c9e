"""Shows what a long run is doing: bars on a terminal, one line an event in a pipe or a log."""

import sys
import time
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Reporter(AbstractContextManager["Reporter"], ABC):
    """Told what happens; decides how it looks."""

    @abstractmethod
    def note(self, text: str) -> None:
        """Something happened that a person wants to read later: one line."""

    @abstractmethod
    def progress(self, phase: str, done: int, total: int | None, detail: str = "") -> None:
        """How far a phase is; told often, shown as often as is useful."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class Quiet(Reporter):
    """Says nothing."""

    def note(self, text: str) -> None:
        del text

    def progress(self, phase: str, done: int, total: int | None, detail: str = "") -> None:
        del phase, done, total, detail


class ProgressOnly(Reporter):
    """Passes on how far phases are, and nothing else.

    Args:
        reporter: To whom.
    """

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def note(self, text: str) -> None:
        del text

    def progress(self, phase: str, done: int, total: int | None, detail: str = "") -> None:
        self._reporter.progress(phase, done, total, detail)


class LineReporter(Reporter):
    """For pipes and logs: every note is a line; progress is a line at its start, its end and now and then between."""

    _EVERY_SECONDS = 15.0

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown: tuple[str, int] | None = None
        self._shown_at = 0.0

    def note(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def progress(self, phase: str, done: int, total: int | None, detail: str = "") -> None:
        now = time.monotonic()
        is_new_phase = self._shown is None or self._shown[0] != phase
        is_just_done = done == total and self._shown != (phase, done)
        if is_new_phase or is_just_done or now - self._shown_at >= self._EVERY_SECONDS:
            self._shown, self._shown_at = (phase, done), now
            count = f"{done}" if total is None else f"{done}/{total}"
            self.note(f"{phase}: {count}" + (f", {detail}" if detail else ""))


class TerminalReporter(Reporter):
    """For people at a terminal: notes scroll above one bar a phase."""

    def __init__(self, stream: TextIO) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}"),
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
        self._progress.console.print(text, markup=False)

    def progress(self, phase: str, done: int, total: int | None, detail: str = "") -> None:
        if phase not in self._tasks:
            for task in self._tasks.values():
                self._progress.stop_task(task)
            self._tasks[phase] = self._progress.add_task(phase, total=total, detail=detail)
        self._progress.update(self._tasks[phase], completed=done, total=total, detail=detail)


def build_reporter() -> Reporter:
    """For standard output: bars where a person looks, lines everywhere else."""
    stream = sys.stdout
    return TerminalReporter(stream) if stream.isatty() else LineReporter(stream)
