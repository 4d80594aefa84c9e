"""What can be seen of runs without opening their studies: a list of those of a folder, and differences of two."""

import csv
import json
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from nas.common.boundary import SMALL_FILE, read_text, reading
from nas.common.disk_usage import disk_bytes
from nas.common.errors import NasError, StudyError
from nas.common.units import format_bytes, format_seconds
from nas.config.diff import all_differences
from nas.run.arms.directory import is_arms_run
from nas.run.directory import ARMS, Run, is_run, read_run
from nas.run.finalize import read_report
from nas.run.progress_lines import STAGE_VERBS, metric_title
from nas.run.recording import RESULTS
from nas.run.roles import BEST
from nas.run.tables import text_table
from nas.run.time_budget import TimeAccount, time_file
from nas.search.metric_registry import METRICS
from nas.search.trial import STAGES
from nas.storage.backends.journal import LOCK
from nas.storage.lease import Holder, process_start

_MAX_BYTES = 16 * SMALL_FILE


@dataclass(frozen=True)
class RunOverview:
    """What can be seen of a run.

    Args:
        directory: The run directory.
        state: `running`, `finished`, `stopped` (`resume` continues it), `damaged`, `held by` another host, or
            `unfinished` where only a database knows whether it is running.
        candidates: The number of architectures that have a score.
        best: The best score, and how it was obtained; empty if there is none.
        seconds: The running time of all sessions; None if it is not known.
        size: The bytes of all files on disk.
        changed: The time of the last change, in seconds since the epoch.
    """

    directory: Path
    state: str
    candidates: int
    best: str
    seconds: float | None
    size: int
    changed: float

    def cells(self) -> tuple[str, ...]:
        """Return the row of the table."""
        return (
            str(self.directory),
            self.state,
            str(self.candidates),
            self.best or "–",
            "–" if self.seconds is None else format_seconds(self.seconds),
            format_bytes(self.size),
            datetime.fromtimestamp(self.changed).strftime("%Y-%m-%d %H:%M"),
        )


def list_runs(folder: Path) -> str:
    """Return a table of the runs of a folder, the one that was changed last first.

    Args:
        folder: A folder with run directories, or a run directory.

    Raises:
        StudyError: If there is no such folder, or it has no runs.
    """
    with reading(folder, expected="a folder with run directories", error=StudyError):
        found = [_overview(path) for path in _find_runs(folder)]
    if not found:
        raise StudyError(f"{folder}: has no runs; expected a folder with run directories, as `search --run-dir` writes")
    found.sort(key=lambda entry: -entry.changed)
    header = ("run", "state", "architectures", "best", "time", "size", "last change")
    return text_table(header, [entry.cells() for entry in found])


def _find_runs(folder: Path) -> Iterator[Path]:
    """Yield a folder if it is a run, and the runs right below it; the runs of all arms in place of those over arms."""
    for path in (folder, *sorted(entry for entry in folder.iterdir() if entry.is_dir())):
        if not is_run(path):
            continue
        try:
            has_arms = is_arms_run(path)
        except NasError:  # damaged, which its overview states
            has_arms = False
        if has_arms:
            yield from sorted(entry for entry in (path / ARMS).glob("*") if is_run(entry))
        else:
            yield path


def _overview(directory: Path) -> RunOverview:
    candidates, best, seconds = 0, "", None
    try:
        state = run_state(directory, read_run(directory))
        candidates, best = _results(directory / RESULTS)
        seconds = TimeAccount(time_file(directory)).spent_seconds
    except NasError:
        state = "damaged"
    facts = [os.lstat(Path(root, name)) for root, _, names in os.walk(directory) for name in names]
    return RunOverview(
        directory,
        state,
        candidates,
        best,
        seconds,
        disk_bytes(facts),
        max(fact.st_mtime for fact in facts),
    )


def state_of(directory: Path) -> str:
    """Return the state of a run; see `RunOverview`.

    Args:
        directory: The run directory.
    """
    try:
        return run_state(directory, read_run(directory))
    except NasError:
        return "damaged"


def run_state(directory: Path, run: Run) -> str:
    """Return whether a run is running, finished, or stopped; unfinished where only its database knows.

    Args:
        directory: The run directory.
        run: Its description.

    Raises:
        StudyError: If its lock or its report is damaged.
    """
    held = lock_state(directory) if run.storage is None else None
    if held is not None:
        return held
    if BEST in read_report(directory):
        return "finished"
    return "stopped" if run.storage is None else "unfinished"


def lock_state(directory: Path) -> str | None:
    """Return `running` or `held by` another host for a directory whose lock a process holds; None if none does.

    Args:
        directory: The directory of a run, or of a search over arms.

    Raises:
        StudyError: If the lock is damaged.
    """
    lock = directory / LOCK
    if not lock.exists():
        return None
    with reading(lock, expected="the lock of a study", error=StudyError):
        content = lock.read_text()
        holder = Holder.from_dict(json.loads(content) if content.strip() else None)
    if holder is None:
        return None
    if holder.host != socket.gethostname():
        return f"held by {holder.host}"
    return "running" if process_start(holder.process) == holder.process_start else None


def _results(path: Path) -> tuple[int, str]:
    """Return the number of architectures with a score, and the best score of the last stage that has one."""
    if not path.exists():
        return 0, ""
    text = read_text(path, expected="the results of a search", error=StudyError, max_bytes=_MAX_BYTES)
    with reading(path, expected="the results of a search", error=StudyError, problem="is damaged"):
        rows = [row for row in csv.DictReader(text.splitlines()) if row["status"] == "finished"]
        best = {row["stage"]: row for row in rows if row["best"] == "yes"}
        last = next((stage for stage in reversed(STAGES) if stage in best), None)
        if last is None:
            return len({row["trial"] for row in rows}), ""
        row = best[last]
        score = f"{row['ranked_by']} {float(row['score']):.4f}, {STAGE_VERBS[last]}"
        return len({entry["trial"] for entry in rows}), score


def compare_runs(first: Path, second: Path) -> str:
    """Return what differs in the configurations of two runs, and their results.

    Args:
        first: The directory of a run.
        second: That of another.

    Raises:
        NasError: If one is no run, or damaged.
    """
    directories = (first, second)
    before, after = ({**run.config.as_dict(), "contents": dict(run.contents)} for run in map(read_run, directories))
    changed = [("configuration", str(first), str(second)), *all_differences(before, after)]
    lines = ["the configurations are equal"] if len(changed) == 1 else [text_table(changed[0], changed[1:])]
    reports = [read_report(directory).get(BEST, {}) for directory in directories]
    rows = [
        (f"{metric_title(name)}, {split}", *(_metric(report, split, name) for report in reports))
        for split in ("validation", "test")
        for name in METRICS
        if any(name in report.get(split, {}) for report in reports)
    ]
    facts = [_overview(directory).cells()[1:6] for directory in directories]
    titles = ("state", "architectures", "best of the search", "time", "size")
    rows = [*((title, *cells) for title, *cells in zip(titles, *facts, strict=True)), *rows]
    return "\n".join([*lines, "", text_table(("result", str(first), str(second)), rows)])


def _metric(report: Mapping[str, Any], split: str, name: str) -> str:
    value = report.get(split, {}).get(name)
    return "–" if value is None else f"{value:.4f}"
