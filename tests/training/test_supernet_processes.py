"""Supernet trainings shared by several processes: equal results, stops, lost processes."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nas.common.errors import StudyError, TrainingError
from nas.config.training_schema import RecipeConfig
from nas.models.fusion.base import FusionModel
from nas.models.fusion.pmf.model import PMF
from nas.training.distributed import GroupBroken
from nas.training.trainer import learning_rate_factor
from tests.support.supernet_training import (
    STEPS,
    TrainingCase,
    assert_identical,
    finished,
    fresh_supernet,
    load_checkpoint,
    train_case,
    train_in_processes,
)


@pytest.mark.parametrize(
    ("size", "changes"),
    [
        (2, {"architectures_per_step": 3}),
        (3, {"architectures_per_step": 3}),
        (3, {"architectures_per_step": 4}),
        (3, {"architectures_per_step": 2}),
        (2, {"sampling": "sandwich", "distillation": 0.5}),
    ],
)
def test_result_does_not_depend_on_the_number_of_processes(
    case: TrainingCase,
    single_process_checkpoint: Callable[..., dict[str, Any]],
    tmp_path: Path,
    size: int,
    changes: dict[str, Any],
) -> None:
    outcomes = finished(train_in_processes(replace(case, **changes), size, tmp_path / "processes"))
    expected = single_process_checkpoint(**changes)
    assert_identical(load_checkpoint(case.checkpoint), expected)
    for outcome in outcomes:
        assert_identical(outcome.state, dict(expected["model"]))
    assert [len(outcome.losses) for outcome in outcomes] == [STEPS] + [0] * (size - 1)


@pytest.mark.parametrize(("size", "size_after", "stopping_rank"), [(2, 3, 1), (3, 1, 0), (1, 2, 0)])
def test_all_processes_stop_together_and_any_number_resumes_to_the_same_weights(
    case: TrainingCase,
    single_process_checkpoint: Callable[..., dict[str, Any]],
    tmp_path: Path,
    size: int,
    size_after: int,
    stopping_rank: int,
) -> None:
    outcomes = finished(train_in_processes(replace(case, stop_after={stopping_rank: 3}), size, tmp_path / "before"))
    assert [outcome.done for outcome in outcomes] == [3] * size
    assert load_checkpoint(case.checkpoint)["step"] == 3
    outcomes = finished(train_in_processes(case, size_after, tmp_path / "after"))
    assert [outcome.done for outcome in outcomes] == [STEPS] * size_after
    expected = single_process_checkpoint()
    assert_identical(load_checkpoint(case.checkpoint), expected)
    for outcome in outcomes:
        assert_identical(outcome.state, dict(expected["model"]))


def test_schedule_follows_the_time_if_it_runs_ahead_of_the_steps(
    case: TrainingCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first, second) = finished(train_in_processes(replace(case, pace={0: 0.4, 1: 0.9}), 2, tmp_path / "processes"))
    assert first.done == second.done == 3
    of_two_processes = load_checkpoint(case.checkpoint)
    case.checkpoint.unlink()
    positions, fractions = [], iter([0.0, 0.4, 0.8, 1.2])

    def recorded(step: int, step_count: int, recipe: RecipeConfig) -> float:
        positions.append(step)
        return learning_rate_factor(step, step_count, recipe)

    monkeypatch.setattr("nas.training.trainer.learning_rate_factor", recorded)
    assert train_case(case, fresh_supernet(case.config), elapsed_fraction=lambda: next(fractions))[0] == 3
    assert positions == [int(fraction * STEPS) for fraction in (0.0, 0.4, 0.8)]
    assert_identical(load_checkpoint(case.checkpoint), of_two_processes)
    # Resumed without a limit, the schedule continues at the finished steps.
    positions.clear()
    assert train_case(case, fresh_supernet(case.config))[0] == STEPS
    assert positions == list(range(3, STEPS))


def kill(supernet: FusionModel) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def poison(supernet: FusionModel) -> None:
    assert isinstance(supernet, PMF)
    with torch.no_grad():
        supernet.image_classifier.bias.fill_(float("nan"))


def run_out_of_memory(supernet: FusionModel) -> None:
    raise MemoryError("out of memory in this process")


@pytest.mark.parametrize("victim", [0, 1])
def test_killed_process_is_an_error_in_the_others(case: TrainingCase, tmp_path: Path, victim: int) -> None:
    outcomes = train_in_processes(replace(case, faults={victim: kill}), 2, tmp_path / "processes")
    assert outcomes[victim] is None
    survivor = outcomes[1 - victim]
    assert survivor is not None and isinstance(survivor.error, GroupBroken)


@pytest.mark.parametrize("size", [1, 2])
def test_non_finite_loss_is_an_error_in_all_processes(case: TrainingCase, tmp_path: Path, size: int) -> None:
    outcomes = train_in_processes(replace(case, faults={size - 1: poison}), size, tmp_path / "processes")
    for outcome in outcomes:
        assert outcome is not None and isinstance(outcome.error, TrainingError)
        assert "the loss is nan at step 0" in str(outcome.error)


def test_error_in_one_process_ends_the_others_while_it_is_still_alive(case: TrainingCase, tmp_path: Path) -> None:
    case = replace(case, faults={1: run_out_of_memory}, outlasts_others=True)
    first, failed, last = train_in_processes(case, 3, tmp_path / "processes")
    assert first is not None and failed is not None and last is not None
    assert str(failed.error) == "out of memory in this process" and failed.has_outlasted_others
    assert isinstance(first.error, GroupBroken) and isinstance(last.error, GroupBroken)


def test_damaged_checkpoint_is_an_error_in_all_processes(case: TrainingCase, tmp_path: Path) -> None:
    case.checkpoint.write_bytes(b"no checkpoint")
    first, second = train_in_processes(case, 2, tmp_path / "processes")
    assert first is not None and isinstance(first.error, StudyError)
    assert second is not None and isinstance(second.error, GroupBroken)
