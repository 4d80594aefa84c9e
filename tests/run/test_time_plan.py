"""The estimated times of a search, against a search whose steps all take one second."""

from dataclasses import replace

import pytest

from nas.config.schema import Config
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.run.time_plan import Speed, StepTimer, TimePlan
from nas.search.pretraining import OBJECTIVES
from tests.support.search_file import make_search_config


def config_of(**budget: object) -> Config:
    return make_search_config(
        **{
            "supernet.architectures_per_step": 4,
            "supernet.steps": 100,
            "search.short_training_steps": 10,
            "search.promotion_fraction": 0.25,
            "search.finalists": 4,
            "search.rerun_seeds": 3,
            "budget": {"memory": "1GiB", **budget},
        }
    )


def seconds_of(trials: int, speed: Speed) -> dict[str, float]:
    # 48 validation samples are 6 batches of 8, which take as long as 2 training steps.
    plan = TimePlan(config_of(trials=trials), full_steps=50, validation_count=48)
    return dict(plan.seconds(trials, speed))


def test_phases_of_a_budget_in_trials_take_the_time_of_their_steps() -> None:
    alone = Speed(step_seconds=4.0, process_count=1, steps_left=90, spent_seconds=40.0)
    assert seconds_of(20, alone) == {
        "supernet": 360.0,
        "candidates": 20 * (2 + 0.25 * (10 + 2)),
        "finalists": (4 + 1) * (50 + 2),
        "race": (4 + 1) * 3 * (50 + 2),
    }


def test_processes_share_candidates_and_the_architectures_of_a_step() -> None:
    three = Speed(step_seconds=2.0, process_count=3, steps_left=90, spent_seconds=20.0)  # two of three train two
    assert seconds_of(30, three) == {
        "supernet": 180.0,
        "candidates": pytest.approx(30 * (2 + 0.25 * (10 + 2)) / 3),
        "finalists": 2 * (50 + 2),
        "race": (4 + 1) * (50 + 2),
    }


def test_pretraining_counts_as_three_steps_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PMFArchitecture, "pretraining_objectives", OBJECTIVES)
    plan = TimePlan(config_of(trials=20).replace(pretraining={"steps": 30}), full_steps=50, validation_count=48)
    seconds = plan.seconds(20, Speed(step_seconds=4.0, process_count=1, steps_left=90, spent_seconds=40.0))
    assert seconds["finalists"] == (4 + 1) * (50 + 3 * 30 + 2)
    assert seconds["candidates"] == 20 * (2 + 0.25 * (10 + 2))


def test_supernet_that_is_too_long_for_its_time_is_named() -> None:
    plan = TimePlan(config_of(time="1000s"), full_steps=50, validation_count=48)
    speed = Speed(step_seconds=4.0, process_count=1, steps_left=90, spent_seconds=40.0, seconds_left=160.0)
    (correction,) = plan.lines(speed)
    assert correction.startswith(
        "Supernet: supernet.steps: 90 more steps would take 6m00s; the 2m40s that its part of the time leaves hold "
        "about 40,"
    )
    assert plan.lines(replace(speed, seconds_left=361.0)) == []
    short = TimePlan(config_of(time="59s"), full_steps=50, validation_count=48)
    assert short.lines(speed) == []


def test_times_of_a_short_search_are_not_shown() -> None:
    quick = Speed(step_seconds=0.01, process_count=1, steps_left=90, spent_seconds=0.1)
    plan = TimePlan(config_of(trials=20), full_steps=50, validation_count=48)
    assert plan.lines(quick) == []
    (line,) = plan.lines(Speed(4.0, 1, 90, 0.0))
    assert line.startswith("Estimated from the first steps: supernet 6m00s → screening 1m40s → full training 4m20s")


def test_steps_are_timed_once_and_without_the_first() -> None:
    times = iter([100.0, 101.0, 102.0, 104.0, 110.0])
    timer = StepTimer(now=lambda: next(times))
    found = [timer.seconds_per_step(done) for done in (1, 2, 3, 5, 6)]
    assert found == [None, None, None, 1.0, None]
