"""Run whole searches in this process, and read their results."""

import io
from pathlib import Path
from typing import Any

from nas.common.progress import LineReporter
from nas.config.overrides import Overrides
from nas.run.directory import open_study, read_run
from nas.run.executors import ExecutionOptions
from nas.run.search import resume, start
from nas.search.trial import STAGES, Result, Stage


class Killed(BaseException):
    """Stands for `kill -9`: nothing in the program may handle it."""


def run_search(source: Path, directory: Path, options: ExecutionOptions, **overrides: Any) -> str:
    """Start a search; returns its output."""
    stream = io.StringIO()
    start(source, directory, Overrides(**overrides), options, LineReporter(stream))
    return stream.getvalue()


def resume_search(directory: Path, options: ExecutionOptions, **overrides: Any) -> str:
    """Resume a search; returns its output."""
    stream = io.StringIO()
    resume(directory, Overrides(**overrides), options, LineReporter(stream))
    return stream.getvalue()


def results_of(directory: Path) -> dict[Stage, list[Result]]:
    """Return the results of a run by stage."""
    with open_study(directory, read_run(directory)) as study:
        return {stage: study.results(stage) for stage in STAGES}


def counts_of(directory: Path) -> list[int]:
    """Return the number of results of each stage of a run, the cheapest stage first."""
    return [len(results) for results in results_of(directory).values()]


def without_measurements(results: dict[Stage, list[Result]]) -> list[dict[str, Any]]:
    """Return the values of results that are equal in equal searches."""
    measured = ("seconds", "measured_peak_bytes")
    return [
        {key: value for key, value in result.as_dict().items() if key not in measured}
        for stage in results.values()
        for result in stage
    ]
