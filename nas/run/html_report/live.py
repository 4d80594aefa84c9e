"""Write the report of a run again and again while its search is running."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from nas.common.progress import Reporter
from nas.data.samples import class_counts
from nas.models.fusion.base import sizes_of
from nas.run.directory import is_run
from nas.run.html_report.data import read_run_data
from nas.run.html_report.summary import RunSummary, read_summary, write_summary
from nas.run.html_report.write import HTML_REPORT, write_report
from nas.run.prepare import SearchContext
from nas.storage.contents import StudyContents

_FIRST_SECONDS = 5.0
_SHARE = 50
"""Writing the report takes at most this part of the time."""

_SLOWDOWN = 100
"""The time between two reports grows with the age of the search, to spare the disk; after an hour it is 36 s."""
_MAX_SECONDS = 60.0


class LiveReport:
    """Writes a report from time to time in a thread, which waits nearly always, and a last time at the end.

    After a kill nothing more is written. A report that cannot be written does not end the search, since all results are
    safe without it: the reason is reported once.

    Args:
        write: Writes the report; receives whether the search is running.
        path: The file that it writes, for messages.
        reporter: The receiver of messages.
    """

    def __init__(self, write: Callable[[bool], object], path: Path, reporter: Reporter) -> None:
        self._write = write
        self._path = path
        self._reporter = reporter
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="report", daemon=True)

    def __enter__(self) -> "LiveReport":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        has_ended = kind is None or issubclass(kind, Exception | KeyboardInterrupt)
        if has_ended and self._written(is_live=False):
            self._reporter.note(f"Report: {self._path}")

    def _run(self) -> None:
        begin, wait = time.monotonic(), _FIRST_SECONDS
        while not self._ended.wait(wait):
            started = time.monotonic()
            if not self._written(is_live=True):
                return
            ended = time.monotonic()
            wait = max(_FIRST_SECONDS, min((ended - begin) / _SLOWDOWN, _MAX_SECONDS), _SHARE * (ended - started))

    def _written(self, *, is_live: bool) -> bool:
        """Write the report, and return whether that was possible."""
        try:
            self._write(is_live)
        except Exception as error:
            self._reporter.note(f"{self._path}: the report cannot be written: {type(error).__name__}: {error}")
            return False
        return True


class RunReport(LiveReport):
    """Writes the report of a run.

    Args:
        directory: The run directory.
        study: The open study of the run.
        reporter: The receiver of messages.
    """

    def __init__(self, directory: Path, study: StudyContents, reporter: Reporter) -> None:
        def write(is_live: bool) -> None:
            if is_run(directory):  # a new search has none until its workers start
                write_report(read_run_data(directory, study=study, is_running=is_live), is_live=is_live)

        super().__init__(write, directory / HTML_REPORT, reporter)


def write_summary_of(context: SearchContext, directory: Path) -> None:
    """Store what is known of a run before it is searched; keeps the plan of an earlier session.

    Args:
        context: What the search is prepared with.
        directory: The run directory.

    Raises:
        StudyError: If the stored summary is damaged.
        OSError: If it cannot be written.
    """
    store, known = context.store, read_summary(directory)
    samples: dict[str, dict[str, int]] = {name: {} for name in store.splits}
    if store.class_names:
        samples = {
            name: dict(zip(store.class_names, class_counts(split.labels, len(store.class_names)).tolist(), strict=True))
            for name, split in store.splits.items()
        }
    images = {name: int(split.image_of_sample.max()) + 1 for name, split in store.splits.items()}
    sizes = sizes_of(context.image_encoder, context.text_encoder)
    write_summary(directory, RunSummary(sizes, samples, images, {} if known is None else known.plan))
