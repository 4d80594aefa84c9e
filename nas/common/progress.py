"""Progress of a long run: bars on a terminal, plain lines in a pipe or a log."""

import _thread
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TextIO

from rich.console import Console, RenderableType
from rich.progress import Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from nas.common.countdown import counted_down
from nas.common.output import lossless_output, visible
from nas.common.units import format_seconds


class Reporter(AbstractContextManager["Reporter"], ABC):
    """Receives notes and progress from a run, and displays them."""

    @abstractmethod
    def note(self, text: str) -> None:
        """Report an event that is worth keeping, in one line."""

    @abstractmethod
    def progress(
        self, phase: str, done: int, total: int | None, detail: str = "", *, left_seconds: float | None = None
    ) -> None:
        """Report the progress of a phase, and that of the whole run where it is known.

        Callers may report every step; the reporter decides how often to update the display.

        Args:
            phase: The name of the phase.
            done: The number of finished steps.
            total: The number of all steps; None if unknown.
            detail: A short text to show after the count.
            left_seconds: The estimated time until the end of all phases; None if unknown.
        """

    def announce(self, text: str) -> bool:
        """Show a line from the handler of a signal, if that is possible while something else is being shown.

        Args:
            text: The line.

        Returns:
            Whether it will be shown.
        """
        del text
        return False

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

    def progress(
        self, phase: str, done: int, total: int | None, detail: str = "", *, left_seconds: float | None = None
    ) -> None:
        self._reporter.progress(phase, done, total, detail, left_seconds=left_seconds)

    def announce(self, text: str) -> bool:
        return self._reporter.announce(text)


class PartReporter(Reporter):
    """Forwards notes and progress of one of several searches, but not when it ends: the others follow.

    Args:
        reporter: The receiver.
    """

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def note(self, text: str) -> None:
        self._reporter.note(text)

    def progress(
        self, phase: str, done: int, total: int | None, detail: str = "", *, left_seconds: float | None = None
    ) -> None:
        del left_seconds
        self._reporter.progress(phase, done, total, detail)

    def announce(self, text: str) -> bool:
        return self._reporter.announce(text)


class LineReporter(Reporter):
    """Writes plain lines, for pipes and logs.

    Each note is one line. A phase gets one line when it starts, one when it ends, and some in between: when its count
    has changed after 15 seconds, or when it has not after a minute. The intervals grow with the run, so that the log of
    a day is not longer than that of an hour.

    Args:
        stream: The stream to write to.
    """

    _INTERVAL_SECONDS = 15.0
    _INTERVAL_SHARE = 0.01  # of the time since the start
    _UNCHANGED = 4  # times the interval

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._started_at = time.monotonic()
        self._shown: tuple[str, int] | None = None
        self._shown_at = 0.0
        self._line = ""

    def note(self, text: str) -> None:
        self._line = text
        print(visible(text), file=self._stream, flush=True)

    def progress(
        self, phase: str, done: int, total: int | None, detail: str = "", *, left_seconds: float | None = None
    ) -> None:
        if not self._is_due(phase, done, total):
            return
        self._shown, self._shown_at = (phase, done), time.monotonic()
        count = f"{done}/{total}" if total is not None else f"{done}" if done else "started"
        left = "" if left_seconds is None else f"about {format_seconds(left_seconds)} left in all"
        line = f"{phase}: {', '.join(filter(None, (count, detail, left)))}"
        if line != self._line:
            self.note(line)

    def _is_due(self, phase: str, done: int, total: int | None) -> bool:
        """Return whether the progress of a phase is worth a line now."""
        if self._shown is None or self._shown[0] != phase:
            return True
        has_changed = self._shown != (phase, done)
        if has_changed and done == total:
            return True
        now = time.monotonic()
        interval = max(self._INTERVAL_SECONDS, self._INTERVAL_SHARE * (now - self._started_at))
        return now - self._shown_at >= interval * (1 if has_changed else self._UNCHANGED)


_OVERALL = "overall"
_BAR_WIDTH = 24


class _Bars(Progress):
    """Bars of all phases, below them that of the whole run."""

    def make_tasks_table(self, tasks: Iterable[Task]) -> Table:
        return super().make_tasks_table(sorted(tasks, key=lambda task: task.description == _OVERALL))


class _Bar(ProgressColumn):
    """The bar of a phase by its count, that of the whole run by its time."""

    def render(self, task: Task) -> RenderableType:
        elapsed, left = task.elapsed or 0.0, _left_seconds(task)
        if left is not None:
            return ProgressBar(total=max(elapsed + left, 1e-9), completed=elapsed, width=_BAR_WIDTH)
        if task.total is None and task.stop_time is not None:
            return ProgressBar(total=1, completed=1, width=_BAR_WIDTH)
        is_pulsing = task.total is None
        return ProgressBar(
            total=task.total,
            completed=task.completed,
            width=_BAR_WIDTH,
            pulse=is_pulsing,
            animation_time=task.get_time(),
        )


class _Count(ProgressColumn):
    """The finished pieces of a phase: `48/360`; the finished part of the whole run: `43 %`."""

    def render(self, task: Task) -> Text:
        elapsed, left = task.elapsed or 0.0, _left_seconds(task)
        if left is not None:
            return Text(f"{elapsed / max(elapsed + left, 1e-9):.0%}".replace("%", " %"), justify="right")
        done = f"{int(task.completed)}" if task.completed or task.total is not None else ""
        return Text(done if task.total is None else f"{done}/{int(task.total)}", justify="right")


class _Times(ProgressColumn):
    """The time of a phase: `2m36s`."""

    def render(self, task: Task) -> Text:
        return Text(format_seconds(task.elapsed or 0.0), justify="right")


class _Detail(ProgressColumn):
    """The detail of a phase, cut where the line ends; the time that is left of the whole run."""

    def render(self, task: Task) -> Text:
        left = _left_seconds(task)
        text = task.fields["detail"] if left is None else f"about {format_seconds(left)} left"
        return Text(text, no_wrap=True, overflow="ellipsis")


def _now() -> float:
    return time.monotonic()


def _left_seconds(task: Task) -> float | None:
    """Return the time that is left of the whole run, counted down since it was reported; None for a phase."""
    left = task.fields.get("left")
    return None if left is None else counted_down(left, task.get_time() - task.fields["left_at"])


class TerminalReporter(Reporter):
    """Shows one progress bar per phase on a terminal, and one of the whole run; notes scroll above the bars.

    Args:
        stream: The terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._progress = _Bars(
            # All but the last keep their width on a narrow terminal.
            TextColumn("{task.description:<10}", markup=False, table_column=Column(no_wrap=True)),
            *(column(Column(no_wrap=True)) for column in (_Bar, _Count, _Times)),
            _Detail(),
            console=Console(file=stream, highlight=False),
            transient=True,
            get_time=_now,
        )
        self._started_at = self._progress.get_time()
        self._tasks: dict[str, TaskID] = {}
        self._overall: TaskID | None = None

    @property
    def bars(self) -> RenderableType:
        """The bars as they are drawn now."""
        return self._progress.get_renderable()

    def __enter__(self) -> "TerminalReporter":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def note(self, text: str) -> None:
        # The terminal wraps long lines itself, so that a copied command is one line.
        self._progress.console.print(visible(text), markup=False, emoji=False, soft_wrap=True)

    def announce(self, text: str) -> bool:
        # The bars would be drawn over a line that is written to the terminal by itself. The interrupted thread may hold
        # their lock, so that another one has to wait for it; this way to start one takes no lock of Python's own.
        _thread.start_new_thread(self.note, (text,))
        return True

    def progress(
        self, phase: str, done: int, total: int | None, detail: str = "", *, left_seconds: float | None = None
    ) -> None:
        if phase not in self._tasks:
            for task in self._tasks.values():
                self._progress.stop_task(task)
            self._tasks[phase] = self._progress.add_task(phase, total=total, detail=detail)
        self._progress.update(self._tasks[phase], completed=done, total=total, detail=visible(detail))
        if left_seconds is not None:
            self._show_left(left_seconds)

    def _show_left(self, seconds: float) -> None:
        """Show the time that is left of the whole run; the display counts it down until the next report."""
        now = self._progress.get_time()
        if self._overall is None:
            self._overall = self._progress.add_task(_OVERALL, total=None, left=seconds, left_at=now, detail="")
            self._progress.tasks[-1].start_time = self._started_at
        self._progress.update(self._overall, left=seconds, left_at=now)


def build_reporter() -> Reporter:
    """Return a reporter for standard output: bars on a terminal, lines everywhere else."""
    stream = lossless_output()
    return TerminalReporter(stream) if stream.isatty() else LineReporter(stream)
