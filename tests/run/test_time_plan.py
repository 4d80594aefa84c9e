"""The estimated times of a search, against a search whose steps all take one second."""

import pytest

from nas.config.schema import Config
from nas.run.time_plan import Speed, StepTimer, TimePlan
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


def seconds_of(config: Config, speed: Speed) -> dict[str, float]:
    # 48 validation samples are 6 batches of 8, which take as long as 2 training steps.
    return dict(TimePlan(config, full_steps=50, validation_count=48).seconds(speed))


def test_phases_of_a_budget_in_trials_take_the_time_of_their_steps() -> None:
    alone = Speed(step_seconds=4.0, process_count=1, steps_left=90, spent_seconds=40.0)
    assert seconds_of(config_of(trials=20), alone) == {
        "supernet": 360.0,
        "candidates": 20 * (2 + 0.25 * (10 + 2)),
        "finalists": (4 + 1) * (50 + 2),
        "race": (4 + 1) * 3 * (50 + 2),
    }


def test_processes_share_candidates_and_the_architectures_of_a_step() -> None:
    three = Speed(step_seconds=2.0, process_count=3, steps_left=90, spent_seconds=20.0)  # two of three train two
    assert seconds_of(config_of(trials=30), three) == {
        "supernet": 180.0,
        "candidates": pytest.approx(30 * (2 + 0.25 * (10 + 2)) / 3),
        "finalists": 2 * (50 + 2),
        "race": (4 + 1) * (50 + 2),
    }


def test_time_budget_bounds_every_phase() -> None:
    alone = Speed(step_seconds=4.0, process_count=1, steps_left=90, spent_seconds=40.0)
    config = config_of(time="1000s", supernet_fraction=0.2, finalists_fraction=0.3)
    # The supernet has until second 200, screening until 700, 2 trainings of 52 seconds fit until 850, and the race has
    # what they leave.
    assert seconds_of(config, alone) == {"supernet": 160.0, "candidates": 500.0, "finalists": 104.0, "race": 196.0}
    (estimate, correction) = TimePlan(config, full_steps=50, validation_count=48).lines(alone)
    assert estimate.startswith("Estimated from the first steps: supernet 2m40s → screening 8m20s → full training 1m44s")
    assert correction.startswith(
        "Supernet: supernet.steps: 90 more steps need 6m00s, but budget.supernet_fraction leaves 2m40s; corrected to "
        "about 40,"
    )
    short = config_of(time="100s", supernet_fraction=0.5, finalists_fraction=0.3)
    assert seconds_of(short, alone)["finalists"] == 52.0  # one is trained in any case


def test_times_of_a_short_search_are_not_shown() -> None:
    quick = Speed(step_seconds=0.01, process_count=1, steps_left=90, spent_seconds=0.1)
    plan = TimePlan(config_of(trials=20), full_steps=50, validation_count=48)
    assert plan.lines(quick) == []
    assert len(plan.lines(Speed(4.0, 1, 90, 0.0))) == 1


def test_steps_are_timed_once_and_without_the_first() -> None:
    times = iter([100.0, 101.0, 102.0, 104.0, 110.0])
    timer = StepTimer(now=lambda: next(times))
    found = [timer.seconds_per_step(done) for done in (1, 2, 3, 5, 6)]
    assert found == [None, None, None, 1.0, None]
