"""A finished search that tests copy or read."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from nas.run.executors import ExecutionOptions
from tests.support.project import Project
from tests.support.runs import run_search


@dataclass(frozen=True)
class FinishedRun:
    """A finished search of the small project, which tests must not change.

    Args:
        directory: The run directory.
        output: The output of the search.
    """

    directory: Path
    output: str


@pytest.fixture(scope="session")
def options(tmp_path_factory: pytest.TempPathFactory) -> ExecutionOptions:
    """Everything runs in this process; all tests share one feature cache."""
    return ExecutionOptions(worker_count=0, cache_directory=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def finished(project: Project, options: ExecutionOptions, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    directory = tmp_path_factory.mktemp("runs") / "whole"
    return FinishedRun(directory, run_search(project.root / "search.yaml", directory, options))


@pytest.fixture
def copy(finished: FinishedRun, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may change."""
    return Path(shutil.copytree(finished.directory, tmp_path / "copy"))
