"""Set-up of a node other than the driver's, as if the driver's files were out of its reach."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from nas.common.errors import DataError, NasError
from nas.data.features.store import FeatureStore
from nas.execution.ray.node_setup import FeatureFinder, receive_file, remote_run_directory, set_up_node
from nas.execution.worker import CandidateWorker
from nas.execution.worker_setup import WorkerSetup
from nas.run.prepare import build_features
from nas.search.trial import Result
from tests.support.factories import make_job

Contents = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@pytest.fixture
def frozen(setup: WorkerSetup) -> Contents:
    image, text = (np.fromfile(path, dtype=np.uint8) for path in setup.frozen_paths)
    return image, text


def set_up(
    setup: WorkerSetup, cache: Path, frozen: Contents, find_features: FeatureFinder | None = build_features
) -> WorkerSetup:
    return set_up_node(setup, run_id="run", cache_directory=cache, find_features=find_features, frozen=frozen)


def test_node_out_of_reach_of_the_drivers_files_builds_its_features_and_scores_the_same(
    setup: WorkerSetup, frozen: Contents, tmp_path: Path
) -> None:
    away = replace(setup, feature_directory=tmp_path / "not here" / setup.feature_directory.name)
    remote = set_up(away, tmp_path / "cache", frozen)
    assert remote.run_directory == remote_run_directory(tmp_path / "cache", "run")
    assert remote.feature_directory.is_relative_to(tmp_path / "cache")
    assert len(FeatureStore(remote.feature_directory).splits["train"]) > 0
    receive_file(remote.run_directory, setup.supernet_path.name, np.fromfile(setup.supernet_path, dtype=np.uint8))
    scores = []
    for node_setup in (setup, remote):
        job = make_job(stage="short", step_count=3)
        (outcome,) = CandidateWorker(node_setup).outcomes(job, limit_bytes=None)
        assert isinstance(outcome, Result)
        scores.append((outcome.score, outcome.metrics))
    assert scores[0] == scores[1]


def test_features_on_a_shared_path_are_used_as_they_are(setup: WorkerSetup, frozen: Contents, tmp_path: Path) -> None:
    remote = set_up(setup, tmp_path / "cache", frozen)
    assert remote.feature_directory == setup.feature_directory
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["runs"]


def test_data_other_than_the_drivers_is_refused(setup: WorkerSetup, frozen: Contents, tmp_path: Path) -> None:
    away = replace(setup, feature_directory=tmp_path / "of-other-data")
    with pytest.raises(DataError, match="differ from those of the driver; expected features of-other-data, got "):
        set_up(away, tmp_path / "cache", frozen)


def test_node_that_has_to_share_the_features_is_refused_without_them(
    setup: WorkerSetup, frozen: Contents, tmp_path: Path
) -> None:
    away = replace(setup, feature_directory=tmp_path / "not here")
    with pytest.raises(NasError, match="not here"):
        set_up(away, tmp_path / "cache", frozen, find_features=None)


def test_function_that_finds_the_features_can_be_sent_to_another_node() -> None:
    assert pickle.loads(pickle.dumps(build_features)) is build_features


def test_received_file_is_written_once_and_replaced_when_it_differs(tmp_path: Path) -> None:
    content = np.arange(9, dtype=np.uint8)
    receive_file(tmp_path / "run", "file", content)
    written = (tmp_path / "run" / "file").stat()
    receive_file(tmp_path / "run", "file", content)
    again = (tmp_path / "run" / "file").stat()
    for name in ("st_ino", "st_mode", "st_size", "st_mtime_ns", "st_ctime_ns"):  # all but the access time
        assert getattr(again, name) == getattr(written, name)
    receive_file(tmp_path / "run", "file", content[:5])
    assert (tmp_path / "run" / "file").read_bytes() == bytes(range(5))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["file"]
