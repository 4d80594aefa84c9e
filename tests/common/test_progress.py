import io

import pytest

from nas.common.progress import LineReporter, ProgressOnly, TerminalReporter


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
