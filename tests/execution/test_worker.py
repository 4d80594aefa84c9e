"""The memory grant of a worker, and its outcomes; test_executors.py tests its results."""

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nas.common.errors import TrainingError
from nas.execution.base import SupernetJob, SupernetProgress
from nas.execution.training_job import batch_size_of, curve_evaluation
from nas.execution.worker import CandidateWorker
from nas.execution.worker_setup import WorkerSetup
from nas.memory.measurement import private_bytes
from nas.memory.overheads import PROCESS_BYTES, bytes_with_fragmentation
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.search.keys import CandidateKey
from nas.search.trial import Failure, Result, Stage
from nas.training.checkpoint import load_tensors
from nas.training.distributed import SingleProcessGroup
from nas.training.loss_curve import MAX_EVALUATIONS, LossCurve, evaluated_steps
from nas.training.stopping import StopRequested
from tests.support.factories import make_job

TRAIN_SAMPLES = 36  # three fifths of those of the project
VALIDATION_SAMPLES = 12
NEED_BYTES = PROCESS_BYTES + 100 * 2**20


@pytest.mark.parametrize(
    ("limit_bytes", "policy"),
    [
        (bytes_with_fragmentation(NEED_BYTES), "keep_freed_memory"),
        (bytes_with_fragmentation(NEED_BYTES) - 1, "map_large_tensors"),
        (None, "keep_freed_memory"),
    ],
)
def test_freed_memory_is_kept_if_the_grant_has_room_for_it(
    setup: WorkerSetup, monkeypatch: pytest.MonkeyPatch, limit_bytes: int | None, policy: str
) -> None:
    worker = CandidateWorker(setup, base_bytes=private_bytes())
    called = []
    for name in ("keep_freed_memory", "map_large_tensors"):
        monkeypatch.setattr(f"nas.execution.grant.{name}", lambda name=name: called.append(name))
    job = make_job(stage="short", step_count=2, predicted_peak_bytes=NEED_BYTES)
    (outcome,) = worker.outcomes(job, limit_bytes=limit_bytes)
    assert called == [policy]
    assert isinstance(outcome, Result) and outcome.kept_freed_memory == (policy == "keep_freed_memory")


def test_memory_that_the_process_held_before_is_neither_limited_nor_measured(setup: WorkerSetup) -> None:
    job = make_job(stage="short", step_count=2)
    held = private_bytes()
    assert held > 100 * 2**20
    (outcome,) = CandidateWorker(setup, base_bytes=held).outcomes(job, limit_bytes=held // 2)
    assert isinstance(outcome, Result) and outcome.measured_peak_bytes < held // 2
    (outcome,) = CandidateWorker(setup).outcomes(job, limit_bytes=held // 2)
    assert isinstance(outcome, Failure) and outcome.kind == "memory"
    assert outcome.measured_peak_bytes is not None and outcome.measured_peak_bytes > held // 2


def test_short_training_scales_the_learning_rates_of_the_recipe_and_full_training_does_not(
    setup: WorkerSetup,
) -> None:
    def loss(stage: Stage, scale: float) -> float:
        search = setup.config.search.replace(short_training_lr_scale=scale)
        worker = CandidateWorker(replace(setup, config=setup.config.replace(search=search)))
        (outcome,) = worker.outcomes(
            make_job(stage=stage, step_count=0 if stage == "one_shot" else 6), limit_bytes=None
        )
        assert isinstance(outcome, Result)
        return outcome.metrics["cross_entropy"]

    one_shot = loss("one_shot", 1.0)
    assert loss("short", 1e-9) == pytest.approx(one_shot, abs=1e-6)
    assert abs(loss("short", 1.0) - one_shot) > 2 * abs(loss("short", 0.1) - one_shot) > 1e-5
    assert loss("full", 0.1) == loss("full", 1.0)


def test_short_trainings_and_the_supernet_read_the_share_of_the_search_and_full_trainings_all_samples(
    setup: WorkerSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: dict[str, int] = {}

    def record(stage: str) -> Callable[..., int]:
        def stop(*arguments: Any, **settings: Any) -> int:
            read[stage] = len(settings["split"] if "split" in settings else arguments[1].split)
            raise StopRequested

        return stop

    config = setup.config.replace(data=setup.config.data.replace(search_share=0.5))
    worker = CandidateWorker(replace(setup, config=config))
    for stage in ("short", "full"):
        monkeypatch.setattr("nas.execution.training_job.train_steps", record(stage))
        with pytest.raises(StopRequested):
            worker.outcomes(make_job(stage=stage, step_count=2), limit_bytes=None)
    monkeypatch.setattr("nas.execution.worker.train_supernet", record("supernet"))
    with pytest.raises(StopRequested):
        worker.train_supernet(
            SupernetJob(feasible=None, micro_batches={}, peak_bytes=0),
            SingleProcessGroup(),
            limit_bytes=None,
            on_progress=lambda progress: None,
        )
    assert read["short"] == read["supernet"] == read["full"] // 2


def test_training_that_diverges_in_the_last_step_fails_and_stores_no_weights(
    setup: WorkerSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Training itself only checks the loss before each step, and the argmax of NaN logits is class 0.
    monkeypatch.setattr("nas.training.trainer.learning_rate_factor", lambda *arguments: 1e30)
    job = make_job(trial=3, stage="full", step_count=1, learning_rate=1.0)
    (outcome,) = CandidateWorker(setup).outcomes(job, limit_bytes=None)
    assert isinstance(outcome, Failure) and outcome.kind == "error" and outcome.cause == "TrainingError"
    assert "not finite after training; lower recipe.learning_rates" in outcome.reason
    assert not setup.weights_path(CandidateKey(3)).exists()


def test_only_members_with_infinite_logits_fail_when_candidates_are_scored_together(setup: WorkerSetup) -> None:
    worker = CandidateWorker(setup)
    assert isinstance(worker.outcomes(make_job(), limit_bytes=None)[0], Result)
    parameters = worker.supernet().named_parameters()
    last = [values for name, values in parameters if name.endswith("image_to_text.query_prompts")][-1]
    last.data[1:] = float("inf")  # only longer prompts contain it
    shorter, longer = (make_job(trial=trial, architecture=PMFArchitecture(1, trial, 2, 1, 8)) for trial in (1, 2))
    outcomes = worker.outcomes(replace(longer, companions=(shorter,)), limit_bytes=None)
    assert [type(outcome) for outcome in outcomes] == [Failure, Result]
    assert isinstance(outcomes[0], Failure) and outcomes[0].job == longer and "not finite" in outcomes[0].reason


def evaluations_of(setup: WorkerSetup) -> int:
    """Return the number of evaluations during a training of 50 steps, which cost 3 forward passes each."""
    return min(MAX_EVALUATIONS, int(0.03 * 3 * setup.config.recipe.batch_size * 50 / VALIDATION_SAMPLES))


def test_full_training_is_evaluated_on_its_way_without_changing_its_result(
    setup: WorkerSetup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(setup.run_directory, tmp_path, dirs_exist_ok=True)
    worker = CandidateWorker(replace(setup, run_directory=tmp_path))
    jobs = [make_job(trial=3, stage=stage, step_count=50) for stage in ("full", "short")]
    found = []
    for share in (0.03, 0.0):
        monkeypatch.setattr("nas.training.loss_curve.EVALUATED_SHARE", share)
        for job in jobs:
            (result,) = worker.run(job, limit_bytes=None)
            assert worker.curve is not None
            weights = load_tensors(worker.setup.weights_path(job.key, job.stage))[0]
            found.append((result, weights, worker.curve.points))
    (full, weights, curve), (_, _, short), (plain, plain_weights, plain_curve), _ = found
    assert full.metrics == plain.metrics and [point.loss for point in curve] == [point.loss for point in plain_curve]
    assert weights.keys() == plain_weights.keys()
    assert all(torch.equal(tensor, plain_weights[name]) for name, tensor in weights.items())
    evaluated, count = {point.step: point.metrics for point in curve if point.metrics}, evaluations_of(setup)
    assert count > 1 and list(evaluated) == sorted(evaluated_steps(50, count))
    assert len({metrics["cross_entropy"] for metrics in evaluated.values()}) == count and full.metrics.keys() == set(
        next(iter(evaluated.values()))
    )
    assert not any(point.metrics for point in (*short, *plain_curve))


def test_evaluation_that_is_not_finite_leaves_out_a_point_and_stops_with_its_training(
    setup: WorkerSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(stage="full", step_count=50)
    worker = CandidateWorker(setup)
    evaluated = batch_size_of(job, setup.config)
    curve = LossCurve(job.identity, 50, 1.0)
    calls: list[int] = []

    def diverged(*arguments: Any, should_stop: Callable[[], bool], **settings: Any) -> None:
        calls.append(1)
        if should_stop():
            raise StopRequested
        raise TrainingError("not finite")

    monkeypatch.setattr("nas.execution.training_job.predict_logits", diverged)
    model, validation = worker.fresh_model(job), worker.open_features(setup.feature_directory).splits["validation"]
    parts = (job, model, validation, setup.config.recipe, curve, evaluated)
    after_step = curve_evaluation(*parts, lambda: False)
    for step in range(1, 51):
        after_step(step)
        curve.add(step, 1.0)
    assert calls and not any(point.metrics for point in curve.points)
    after_step, first = curve_evaluation(*parts, lambda: True), min(evaluated_steps(50, evaluations_of(setup)))
    with pytest.raises(StopRequested):
        after_step(first)


def test_learning_curve_of_the_supernet_counts_the_samples_of_all_architectures(
    setup: WorkerSetup, tmp_path: Path
) -> None:
    for path in setup.frozen_paths:
        shutil.copy(path, tmp_path)
    supernet = setup.config.supernet.replace(steps=50, checkpoint_steps=7)
    worker = CandidateWorker(replace(setup, config=setup.config.replace(supernet=supernet), run_directory=tmp_path))
    progress: list[SupernetProgress] = []

    def train(stops_after: int) -> None:
        worker.train_supernet(
            SupernetJob(feasible=None, micro_batches={}, peak_bytes=0),
            SingleProcessGroup(),
            limit_bytes=None,
            on_progress=progress.append,
            should_stop=lambda: bool(progress) and progress[-1].done == stops_after,
        )

    train(stops_after=21)
    first = progress[-1].points
    train(stops_after=50)
    steps = [point.step for point in (*first, *progress[-1].points)]
    assert steps == [math.ceil(50 * place / 40) for place in range(1, 41)]
    samples = supernet.architectures_per_step * setup.config.recipe.batch_size
    for point in (*first, *progress[-1].points):
        assert point.epoch == pytest.approx(point.step * samples / TRAIN_SAMPLES, rel=1e-12)
    losses = {entry.done: entry.loss for entry in progress}
    assert first[3].step == 5 and first[3].loss == losses[5]
    assert first[4].step == 7 and first[4].loss == (losses[6] + losses[7]) / 2
