"""Workers that decode images and compute frozen layers in every step have the results of stored features."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nas.common.progress import LineReporter
from nas.config.load import load_config
from nas.execution.base import SupernetJob
from nas.execution.worker import CandidateWorker
from nas.execution.worker_setup import WorkerSetup
from nas.run.executors import write_worker_setup
from nas.run.prepare import prepare
from nas.search.keys import CandidateKey
from nas.search.space import WHOLE
from nas.search.trial import Failure, Result, Stage
from nas.training.distributed import SingleProcessGroup
from tests.support.factories import make_job
from tests.support.project import Project


@pytest.fixture(scope="module")
def workers(project: Project, tmp_path_factory: pytest.TempPathFactory) -> dict[str, CandidateWorker]:
    """A worker with stored features, and one without, each with the supernet that it has trained."""
    found, whole = {}, load_config(project.root / "search.yaml")
    for storage in ("every_layer", "none"):
        features = whole.features.replace(storage=storage, dtype="float32", views=2)
        config = whole.replace(features=features)
        prepared = prepare(
            config,
            source="",
            cache_directory=tmp_path_factory.mktemp("cache"),
            reporter=LineReporter(io.StringIO()),
        )
        setup = write_worker_setup(config, prepared, tmp_path_factory.mktemp(storage), thread_count=1)
        found[storage] = CandidateWorker(setup)
        done = found[storage].train_supernet(
            SupernetJob(None, {}, peak_bytes=1),
            SingleProcessGroup(),
            limit_bytes=None,
            on_progress=lambda progress: None,
        )
        assert done == config.supernet.steps
    return found


def test_supernet_is_that_of_stored_features(workers: dict[str, CandidateWorker]) -> None:
    stored, raw = (load_file(worker.setup.supernet_path) for worker in workers.values())
    torch.testing.assert_close(raw, stored, atol=1e-5, rtol=1e-4)
    assert workers["none"].setup.first_layers == (WHOLE, WHOLE)


@pytest.mark.parametrize(("stage", "steps"), [("one_shot", 0), ("short", 3), ("full", 4)])
def test_job_of_every_stage_has_the_result_of_stored_features(
    workers: dict[str, CandidateWorker], stage: Stage, steps: int
) -> None:
    found = []
    for worker in workers.values():
        (result,) = worker.outcomes(make_job(stage=stage, step_count=steps), limit_bytes=None)
        assert isinstance(result, Result), result
        weights = {} if stage == "one_shot" else load_file(worker.setup.weights_path(CandidateKey(0), stage))
        found.append((result.metrics, weights))
    assert found[1][0] == pytest.approx(found[0][0], abs=1e-5)
    torch.testing.assert_close(found[1][1], found[0][1], atol=1e-5, rtol=1e-4)


def test_image_that_is_gone_is_a_failure_that_names_it(
    workers: dict[str, CandidateWorker], project: Project, tmp_path: Path
) -> None:
    setup: WorkerSetup = workers["none"].setup
    for path in project.images.iterdir():
        (tmp_path / path.name).symlink_to(path)
    data = setup.config.data.replace(images=str(tmp_path))
    worker = CandidateWorker(replace(setup, config=setup.config.replace(data=data)))
    for path in tmp_path.iterdir():
        path.unlink()
    (failure,) = worker.outcomes(make_job(stage="full", step_count=1), limit_bytes=None)
    assert isinstance(failure, Failure) and ".png" in failure.reason, failure
