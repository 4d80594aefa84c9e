"""Reports of running searches: written from time to time, a last time at the end, and never in the way."""

import io
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest

from nas.common.interrupt import Interrupted
from nas.common.progress import LineReporter
from nas.run.html_report import live
from nas.run.html_report.live import LiveReport
from tests.support.runs import Killed

PATH = Path("report.html")


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_FIRST_SECONDS", 0.001)
    monkeypatch.setattr(live, "_SHARE", 1)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("error", [None, Interrupted, OSError, KeyboardInterrupt])
def test_report_is_written_while_the_search_runs_and_at_its_end(error: type[BaseException] | None) -> None:
    written: list[bool] = []
    enough, stream = threading.Event(), io.StringIO()

    def write(is_live: bool) -> None:
        written.append(is_live)
        if len(written) == 3:
            enough.set()

    with pytest.raises(error) if error is not None else nullcontext(), LiveReport(write, PATH, LineReporter(stream)):
        assert enough.wait(30)
        if error is not None:
            raise error
    assert written[-1] is False and all(written[:-1])
    assert stream.getvalue() == "Report: report.html\n"


def test_killed_search_writes_no_report() -> None:
    written: list[bool] = []
    with pytest.raises(Killed), LiveReport(written.append, PATH, LineReporter(io.StringIO())):
        raise Killed
    assert written == []


@pytest.mark.usefixtures("soon")
def test_report_that_cannot_be_written_is_reported_once_and_the_search_goes_on() -> None:
    tried, stream = threading.Event(), io.StringIO()

    def write(is_live: bool) -> None:
        if is_live:
            tried.set()
            raise ValueError("no such gene")

    with LiveReport(write, PATH, LineReporter(stream)):
        assert tried.wait(30)
    assert stream.getvalue() == (
        "report.html: the report cannot be written: ValueError: no such gene\nReport: report.html\n"
    )
