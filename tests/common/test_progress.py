import io
import time

import pytest
from rich.console import Console

from nas.common.progress import LineReporter, PartReporter, ProgressOnly, TerminalReporter


def test_lines_are_written_at_the_start_and_end_of_a_phase_and_every_15_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    stream = io.StringIO()
    with LineReporter(stream) as reporter:
        reporter.progress("supernet", 0, 40)
        reporter.progress("supernet", 10, 40)
        now += 15.0
        reporter.progress("supernet", 20, 40, "loss 0.5")
        reporter.progress("supernet", 40, 40)
        reporter.progress("supernet", 40, 40)
        reporter.progress("candidates", 3, None)
        reporter.note("done")
    assert stream.getvalue().splitlines() == [
        "supernet: 0/40",
        "supernet: 20/40, loss 0.5",
        "supernet: 40/40",
        "candidates: 3",
        "done",
    ]


def test_notes_are_dropped_by_a_progress_only_reporter() -> None:
    stream = io.StringIO()
    with ProgressOnly(LineReporter(stream)) as reporter:
        reporter.note("dropped")
        reporter.progress("supernet", 1, 2)
    assert stream.getvalue() == "supernet: 1/2\n"


def test_a_terminal_shows_notes_without_interpreting_markup() -> None:
    stream = io.StringIO()
    with TerminalReporter(stream) as reporter:
        reporter.progress("supernet", 1, 2)
        reporter.progress("candidates", 1, None)
        reporter.note("kept [bold]as it is[/bold]")
    assert "kept [bold]as it is[/bold]" in stream.getvalue()


def test_lines_say_what_is_left_and_no_line_comes_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    stream = io.StringIO()
    with LineReporter(stream) as reporter:
        reporter.progress("full training", 0, 4, left_seconds=200.0)
        for _ in range(20):  # nothing ends for 100 seconds
            now += 5.0
            reporter.progress("full training", 0, 4, left_seconds=300.0 - now)
        reporter.progress("evaluation", 0, None)
        now += 60.0
        reporter.progress("evaluation", 0, None)
    assert stream.getvalue().splitlines() == [
        "full training: 0/4, about 3m20s left in all",
        "full training: 0/4, about 2m20s left in all",
        "evaluation: started",
    ]


def test_lines_of_a_long_run_are_rarer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    stream = io.StringIO()
    with LineReporter(stream) as reporter:
        for step in range(24 * 360):
            now += 10.0
            reporter.progress("supernet", step, None)
    assert len(stream.getvalue().splitlines()) < 700, "a line every 15 seconds would be 5,760"


def bars(reporter: TerminalReporter, width: int) -> list[str]:
    """Return the bars as a terminal of some width shows them."""
    console = Console(file=io.StringIO(), width=width)
    with console.capture() as capture:
        console.print(reporter.bars)
    return [line.rstrip() for line in capture.get().splitlines()]


def test_terminal_shows_the_whole_run_below_its_phases_and_counts_down(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    reporter = TerminalReporter(io.StringIO())  # not entered: nothing is drawn by itself
    reporter.progress("supernet", 48, 360, "loss 1.8", left_seconds=150.0)
    now += 50.0
    reporter.progress("full training", 1, 4, "best screened: #9 " * 5)
    assert [line.split()[0] for line in bars(reporter, 80)] == ["supernet", "full", "overall"]
    overall = bars(reporter, 80)[-1]
    assert "33 %" in overall and overall.endswith("50s about 1m40s left")
    now += 500.0
    assert bars(reporter, 80)[-1].endswith("about 4s left"), "late, but neither negative nor standing still"
    assert "48/360" in bars(reporter, 80)[0] and "loss 1.8" in bars(reporter, 80)[0]
    assert max(map(len, bars(reporter, 80))) <= 80, "a narrow terminal cuts the detail only"
    assert "1/4" in bars(reporter, 80)[1] and bars(reporter, 80)[1].endswith("…")


def test_terminal_leaves_the_breaking_of_long_lines_to_the_terminal() -> None:
    stream = io.StringIO()
    command = "resume it with: pmf-nas resume " + "a/long/path/" * 20
    with TerminalReporter(stream) as reporter:
        reporter.note(command)
    assert command in stream.getvalue()


def test_line_of_a_signal_handler_is_shown_above_the_bars_once_their_lock_is_free() -> None:
    stream = io.StringIO()
    with TerminalReporter(stream) as reporter:
        reporter.progress("supernet", 1, 2)
        with reporter._progress.console._lock:  # as if the signal had arrived while the bars are drawn
            assert PartReporter(reporter).announce("Interrupted: saving") and "Interrupted" not in stream.getvalue()
        deadline = time.monotonic() + 10
        while "Interrupted: saving" not in stream.getvalue():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert not LineReporter(stream).announce("to standard error")
