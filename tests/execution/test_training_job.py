"""Full trainings of a family that is pretrained: their checkpoints, curves and results."""

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nas.common.progress import build_reporter
from nas.config.load import load_config
from nas.config.pretraining_schema import PretrainingConfig
from nas.data.mask_vocabulary import MaskVocabulary
from nas.execution.worker import CandidateWorker
from nas.execution.worker_setup import WorkerSetup
from nas.run.executors import write_worker_setup
from nas.run.prepare import prepare
from nas.search.keys import CandidateKey, SpeedKey
from nas.search.trial import Job, Result
from nas.training.checkpoint import load_tensors
from nas.training.stopping import StopRequested
from tests.support.factories import make_job
from tests.support.project import Project
from tests.support.tiny_pairs import FAMILY, TinyPairs, TinyPairsArchitecture

STEPS, PRETRAINING_STEPS = 3, 6
JOB = make_job(trial=3, stage="full", step_count=STEPS, architecture=TinyPairsArchitecture(6))


@pytest.fixture(scope="module")
def whole_setup(project: Project, tmp_path_factory: pytest.TempPathFactory) -> WorkerSetup:
    """The setup of workers that read pictures and token ids, and pretrain."""
    config = load_config(project.write("pretrained.yaml", family="late_concat", space={}))
    with build_reporter() as reporter:
        prepared = prepare(config, source="", cache_directory=tmp_path_factory.mktemp("cache"), reporter=reporter)
    setup = write_worker_setup(config, prepared, tmp_path_factory.mktemp("run"), thread_count=1)
    pretraining = PretrainingConfig(steps=PRETRAINING_STEPS, queue_size=10, checkpoint_steps=2)
    # The tiny family is not registered, so that nothing that lists all families sees it.
    config = config.model_copy(update={"pretraining": pretraining})
    return replace(setup, config=config, vocabulary=MaskVocabulary.of(prepared.preprocessor.tokenizer))


@pytest.fixture
def setup(whole_setup: WorkerSetup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WorkerSetup:
    monkeypatch.setattr("nas.models.fusion.supernet.load_model_class", lambda name: {FAMILY: TinyPairs}[name])
    for path in whole_setup.frozen_paths:
        shutil.copy(path, tmp_path)
    return replace(whole_setup, run_directory=tmp_path)


def run(worker: CandidateWorker, job: Job = JOB, *, stop_before: int | None = None) -> Result:
    """Run a job; the call of `should_stop` with the given number stops it."""
    calls = itertools.count()
    (result,) = worker.run(job, limit_bytes=None, should_stop=lambda: next(calls) == stop_before)
    return result


def weights(setup: WorkerSetup) -> dict[str, torch.Tensor]:
    tensors, _ = load_tensors(setup.weights_path(CandidateKey(3)))
    return tensors


def test_training_that_is_interrupted_in_its_pretraining_has_the_weights_of_one_that_is_not(
    setup: WorkerSetup, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = replace(setup, run_directory=tmp_path / "other")
    for path in setup.frozen_paths:
        shutil.copy(path, tmp_path / "other")
    uninterrupted = run(CandidateWorker(setup))
    expected = weights(setup)
    assert not list((tmp_path / "pretraining").iterdir()), "the checkpoint is deleted"
    worker = CandidateWorker(other)
    for stop_before in (5, 3):  # in the sixth step; in the second step of the training, after the last two of six
        with pytest.raises(StopRequested):
            run(worker, stop_before=stop_before)
        assert other.pretraining_path(CandidateKey(3)).exists()
    assert worker.curve is not None and worker.curve.points[-1].phase == "training"
    resumed = run(worker)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(other).items())
    assert resumed.metrics == uninterrupted.metrics
    assert not other.pretraining_path(CandidateKey(3)).exists()
    assert "classifier.weight" in expected and not any("contrastive" in name for name in expected)


def test_checkpoint_of_other_settings_is_not_used(setup: WorkerSetup) -> None:
    with pytest.raises(StopRequested):
        run(CandidateWorker(setup), stop_before=5)
    pretraining = setup.config.pretraining.replace(momentum=0.5)
    worker = CandidateWorker(replace(setup, config=setup.config.model_copy(update={"pretraining": pretraining})))
    run(worker)
    assert worker.curve is not None and worker.curve.identity == JOB.identity
    # All points, those of the pretraining first.
    assert [(point.phase, point.step, point.steps) for point in worker.curve.points] == [
        *(("pretraining", step, PRETRAINING_STEPS) for step in range(1, PRETRAINING_STEPS + 1)),
        *(("training", step, STEPS) for step in range(1, STEPS + 1)),
    ]


def test_measured_speed_has_the_time_of_the_whole_pretraining(
    setup: WorkerSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.training.speed._ENOUGH_SECONDS", 0.0)
    result = run(CandidateWorker(setup), make_job(key=SpeedKey(0), stage="full", architecture=TinyPairsArchitecture(6)))
    assert set(result.metrics) == {"pretraining_seconds", "start_seconds", "step_seconds", "evaluation_seconds"}
    assert 0 < result.metrics["pretraining_seconds"] < result.seconds
    assert not (setup.run_directory / "pretraining").exists()
