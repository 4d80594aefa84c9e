"""The small project as fixtures."""

import os
from pathlib import Path

# Before torch is imported: threads of a busy test machine sleep while they wait instead of spinning.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Tests run in parallel, so numpy's small products are slower with several threads than with one.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Ray's workers have a low priority by default: next to other tests they would make no progress.
os.environ.setdefault("RAY_worker_niceness", "0")

import pytest
import torch

from tests.support.project import Project, build_project


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The small project, shared and not to be changed (search files may be added)."""
    torch.set_num_threads(1)
    return build_project(tmp_path_factory.mktemp("project"))


@pytest.fixture
def own_project(tmp_path: Path) -> Project:
    """A copy of the small project that a test may damage."""
    return build_project(tmp_path / "own")
