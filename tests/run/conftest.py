"""A finished search that tests copy or read."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from nas.run.executors import ExecutionOptions
from tests.support.project import Project
from tests.support.runs import run_search


@dataclass(frozen=True)
class FinishedRun:
    """A finished search of the small project, which tests must not change.

    Args:
        directory: The run directory.
        output: The output of the search.
        cache: The feature cache of the process that searched.
    """

    directory: Path
    output: str
    cache: Path


@pytest.fixture(scope="session")
def options(tmp_path_factory: pytest.TempPathFactory) -> ExecutionOptions:
    """Everything runs in this process; all tests share one feature cache."""
    return ExecutionOptions(worker_count=0, cache_directory=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def finished(project: Project, options: ExecutionOptions, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """Searched once for all processes of the test run."""
    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent
    directory, output, cache = place / "finished" / "whole", place / "finished.txt", place / "finished_cache.txt"
    with FileLock(place / "finished.lock"):
        if not output.exists():
            shutil.rmtree(directory, ignore_errors=True)  # of a process that failed
            cache.write_text(str(options.cache))
            output.write_text(run_search(project.root / "search.yaml", directory, options))
    return FinishedRun(directory, output.read_text(), Path(cache.read_text()))


@pytest.fixture
def copy(finished: FinishedRun, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may change."""
    return Path(shutil.copytree(finished.directory, tmp_path / "copy"))
