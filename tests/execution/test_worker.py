"""What a worker does with its grant; what it computes: test_executors.py."""

from dataclasses import replace
from typing import Any

import pytest

from nas.execution.worker import CandidateWorker
from nas.execution.worker_setup import WorkerSetup
from nas.memory.measurement import private_bytes
from nas.memory.prediction import PROCESS_BYTES, bytes_with_fragmentation
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.search.keys import CandidateKey
from nas.search.trial import Failure, Result, Stage
from tests.support.jobs import job

NEED_BYTES = PROCESS_BYTES + 100 * 2**20


@pytest.mark.parametrize(
    ("limit_bytes", "policy"),
    [
        (bytes_with_fragmentation(NEED_BYTES), "keep_freed_memory"),
        (bytes_with_fragmentation(NEED_BYTES) - 1, "map_large_tensors"),
        (None, "keep_freed_memory"),
    ],
)
def test_freed_memory_is_kept_where_the_grant_has_room_for_it(
    setup: WorkerSetup, monkeypatch: pytest.MonkeyPatch, limit_bytes: int | None, policy: str
) -> None:
    worker = CandidateWorker(setup, base_bytes=private_bytes())
    called = []
    for name in ("keep_freed_memory", "map_large_tensors"):
        monkeypatch.setattr(f"nas.execution.grant.{name}", lambda name=name: called.append(name))
    asked = replace(job(0, "short", 2), predicted_peak_bytes=NEED_BYTES)
    (outcome,) = worker.outcomes(asked, limit_bytes=limit_bytes)
    assert called == [policy]
    assert isinstance(outcome, Result) and outcome.kept_freed_memory == (policy == "keep_freed_memory")


def test_what_the_process_held_before_is_neither_limited_nor_measured(setup: WorkerSetup) -> None:
    held = private_bytes()
    assert held > 100 * 2**20
    (outcome,) = CandidateWorker(setup, base_bytes=held).outcomes(job(0, "short", 2), limit_bytes=held // 2)
    assert isinstance(outcome, Result) and outcome.measured_peak_bytes < held // 2
    (outcome,) = CandidateWorker(setup).outcomes(job(0, "short", 2), limit_bytes=held // 2)
    assert isinstance(outcome, Failure) and outcome.kind == "memory"
    assert outcome.measured_peak_bytes is not None and outcome.measured_peak_bytes > held // 2


def test_short_training_uses_a_share_of_the_recipes_learning_rates_and_full_training_all_of_them(
    setup: WorkerSetup,
) -> None:
    def loss(stage: Stage, scale: float) -> float:
        search = replace(setup.config.search, short_training_lr_scale=scale)
        worker = CandidateWorker(replace(setup, config=replace(setup.config, search=search)))
        (outcome,) = worker.outcomes(job(0, stage, 0 if stage == "one_shot" else 6), limit_bytes=None)
        assert isinstance(outcome, Result)
        return outcome.metrics["cross_entropy"]

    inherited = loss("one_shot", 1.0)
    assert loss("short", 1e-9) == pytest.approx(inherited, abs=1e-6)
    assert abs(loss("short", 1.0) - inherited) > 2 * abs(loss("short", 0.1) - inherited) > 1e-5
    assert loss("full", 0.1) == loss("full", 1.0)


def test_who_diverges_in_the_last_step_fails_and_leaves_no_weights(setup: WorkerSetup) -> None:
    # The loss before a step is all that training itself looks at, and the highest of what is no number is class 0.
    asked = replace(job(3, "full", 1), learning_rate=1e30)
    (outcome,) = CandidateWorker(setup).outcomes(asked, limit_bytes=None)
    assert isinstance(outcome, Failure) and outcome.kind == "error" and outcome.cause == "TrainingError"
    assert "not finite after training; lower recipe.learning_rates" in outcome.reason
    assert not setup.weights_path(CandidateKey(3)).exists()


def test_of_candidates_that_are_scored_together_only_those_fail_that_are_not_finite(setup: WorkerSetup) -> None:
    worker = CandidateWorker(setup)
    assert isinstance(worker.outcomes(job(0), limit_bytes=None)[0], Result)
    supernet: Any = worker.supernet()
    supernet.fusion_layers[-1].image_to_text.query_prompts.data[1:] = float("inf")  # of longer prompts alone
    shorter, longer = (replace(job(trial), architecture=PMFArchitecture(1, trial, 2, 1, 8)) for trial in (1, 2))
    outcomes = worker.outcomes(replace(longer, companions=(shorter,)), limit_bytes=None)
    assert [type(outcome) for outcome in outcomes] == [Failure, Result]
    assert isinstance(outcomes[0], Failure) and outcomes[0].job == longer and "not finite" in outcomes[0].reason
