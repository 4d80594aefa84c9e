"""The estimated time of full trainings."""

from dataclasses import replace

import pytest

from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.run.phases.full_time import FullTrainingTime
from nas.run.speed import TrainingSpeed
from nas.search.keys import CandidateKey
from nas.search.trial import Result

SPEED = TrainingSpeed(step_seconds=0.5, evaluation_seconds=2.0, process_count=2, start_seconds=3.0)
SCORED = Result(
    key=CandidateKey(1),
    architecture=PMFArchitecture(1, 1, 1, 1, 1),
    stage="one_shot",
    score=0.5,
    metrics={},
    step_count=0,
    supernet_steps=10,
    seed=1,
    seconds=4.0,
    predicted_peak_bytes=1,
    measured_peak_bytes=1,
)
TRAINED = replace(SCORED, stage="short", step_count=20, seconds=16.0)


@pytest.mark.parametrize("seconds", [0.1, 4.0, 500.0])
def test_default_takes_what_was_measured_however_long_its_screening_took(seconds: float) -> None:
    time = FullTrainingTime(100, 10.0, SPEED, replace(SCORED, seconds=seconds))
    assert time.of_default(slowest_seconds=9.0) == 3 + 100 * 0.5 + 2


def test_default_without_a_measured_speed_takes_what_its_screening_tells() -> None:
    assert FullTrainingTime(100, 10.0, None, SCORED).of_default(9.0) == 4 + 3 * 10 * 4
    assert FullTrainingTime(100, 10.0, None, None).of_default(9.0) == 9


@pytest.mark.parametrize(("seconds", "ratio"), [(2.0, 1.0), (4.0, 1.0), (10.0, 2.5)])
def test_candidate_takes_as_much_longer_than_the_default_as_in_screening(seconds: float, ratio: float) -> None:
    time = FullTrainingTime(100, 10.0, SPEED, SCORED)
    assert time.of_candidate(replace(SCORED, seconds=seconds), None) == 3 + ratio * (100 * 0.5 + 2)
    assert replace(time, default=None).of_candidate(SCORED, None) == 3 + 100 * 0.5 + 2


def test_short_training_of_the_candidate_tells_most() -> None:
    expected = 4 + 100 * (16 - 4) / 20
    assert FullTrainingTime(100, 10.0, None, None).of_candidate(SCORED, TRAINED) == expected
    assert FullTrainingTime(100, 10.0, SPEED, SCORED).of_candidate(SCORED, TRAINED) == 3 + expected


def test_candidate_without_a_measured_speed_takes_what_its_screening_tells() -> None:
    assert FullTrainingTime(100, 10.0, None, None).of_candidate(SCORED, None) == 4 + 3 * 10 * 4


def test_evaluations_of_the_learning_curve_take_their_time() -> None:
    quick = replace(SPEED, evaluation_seconds=0.5)  # 3 % of 50 s are three of them
    assert quick.full_seconds(100) == 3 + 50 + 0.5 + 3 * 0.5
    assert quick.short_seconds(100) == 50.5
    assert FullTrainingTime(100, 10.0, quick, SCORED).of_candidate(SCORED, None) == 3 + 50 + 4 * 0.5
    trained = replace(TRAINED, seconds=1 + 20.0)  # a step takes 1 s, and an evaluation as well: 3 of 100
    assert FullTrainingTime(100, 10.0, None).of_candidate(replace(SCORED, seconds=1.0), trained) == 100 + 4 * 1
    assert FullTrainingTime(100, 50.0, None).of_candidate(SCORED, None) == 4 * (1 + 150 + 4)
