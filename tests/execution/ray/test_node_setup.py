"""What a node other than the driver's sets up; as if the driver's files were out of its reach."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from nas.common.errors import DataError
from nas.data.features.store import FeatureStore
from nas.execution.ray.node_setup import receive, settle, staged_run
from nas.execution.worker import CandidateWorker, WorkerSetup
from nas.search.trial import Result
from tests.support.jobs import job


@pytest.fixture
def frozen(setup: WorkerSetup) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    image, text = (np.fromfile(path, dtype=np.uint8) for path in setup.frozen_paths)
    return image, text


def settled(setup: WorkerSetup, cache: Path, frozen: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> WorkerSetup:
    return settle(setup, run_id="run", cache_directory=cache, frozen=frozen)


def test_a_node_out_of_reach_of_the_drivers_files_builds_its_own_features_and_scores_the_same(
    setup: WorkerSetup, frozen: tuple[NDArray[np.uint8], NDArray[np.uint8]], tmp_path: Path
) -> None:
    away = replace(setup, feature_directory=tmp_path / "not here" / setup.feature_directory.name)
    there = settled(away, tmp_path / "cache", frozen)
    assert there.run_directory == staged_run(tmp_path / "cache", "run")
    assert there.feature_directory.is_relative_to(tmp_path / "cache")
    assert len(FeatureStore(there.feature_directory).splits["train"]) > 0
    receive(there.run_directory, setup.supernet_path.name, np.fromfile(setup.supernet_path, dtype=np.uint8))
    scores = []
    for place in (setup, there):
        (outcome,) = CandidateWorker(place).outcomes(job(0, "short", 3), limit_bytes=None)
        assert isinstance(outcome, Result)
        scores.append((outcome.score, outcome.metrics))
    assert scores[0] == scores[1]


def test_features_on_a_shared_path_are_used_as_they_are(
    setup: WorkerSetup, frozen: tuple[NDArray[np.uint8], NDArray[np.uint8]], tmp_path: Path
) -> None:
    there = settled(setup, tmp_path / "cache", frozen)
    assert there.feature_directory == setup.feature_directory
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["runs"]


def test_other_data_than_the_drivers_is_refused(
    setup: WorkerSetup, frozen: tuple[NDArray[np.uint8], NDArray[np.uint8]], tmp_path: Path
) -> None:
    away = replace(setup, feature_directory=tmp_path / "of-other-data")
    with pytest.raises(DataError, match="data or encoders are others here than where the search was started"):
        settled(away, tmp_path / "cache", frozen)


def test_what_was_received_is_written_once_and_replaced_when_it_differs(tmp_path: Path) -> None:
    content = np.arange(9, dtype=np.uint8)
    receive(tmp_path / "run", "file", content)
    written = (tmp_path / "run" / "file").stat()
    receive(tmp_path / "run", "file", content)
    again = (tmp_path / "run" / "file").stat()
    for name in ("st_ino", "st_mode", "st_size", "st_mtime_ns", "st_ctime_ns"):  # all but when it was read
        assert getattr(again, name) == getattr(written, name)
    receive(tmp_path / "run", "file", content[:5])
    assert (tmp_path / "run" / "file").read_bytes() == bytes(range(5))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["file"]
