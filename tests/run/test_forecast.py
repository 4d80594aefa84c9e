"""The estimated end of a search, on simulated searches whose phases take other times than planned."""

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence

import pytest

from nas.run.forecast import (
    EVALUATION,
    Activity,
    Forecast,
    PlannedPhase,
    budget_forecast,
    forecast_of,
    plan_forecast,
)
from nas.run.phase_plan import PhasePlan
from nas.run.time_budget import Deadlines

COUNTS: Mapping[str, int | None] = {
    "recipe": 6,
    "supernet": 360,
    "candidates": 100,
    "finalists": 4,
    "race": None,
    EVALUATION: 4,
}


def simulated_run(seconds: Mapping[str, float], factors: Sequence[float]) -> Iterator[tuple[float, float]]:
    """Yield times of a run and the forecast of its whole duration at them; each phase takes a factor of its plan."""
    forecast = forecast_of(seconds)
    spent: dict[str, float] = {}
    for (name, planned), factor in zip(seconds.items(), factors, strict=True):
        whole, count = planned * factor, COUNTS[name]
        for moment in range(40):
            spent[name] = whole * moment / 40
            done = 0 if count is None else moment * count // 40
            at_done = 0.0 if count is None else done * whole / count
            elapsed = sum(spent.values())
            left = forecast.left_seconds(spent, Activity(name, spent[name], done, count, at_done))
            yield elapsed, elapsed + left
        spent[name] = whole


def worst_error_after_a_quarter(seconds: Mapping[str, float], factors: Sequence[float]) -> float:
    total = sum(planned * factor for planned, factor in zip(seconds.values(), factors, strict=True))
    return max(abs(found - total) / total for now, found in simulated_run(seconds, factors) if now >= total / 4)


def random_plan(rng: random.Random) -> dict[str, float]:
    return {name: rng.uniform(5, 100) if name != EVALUATION else rng.uniform(2, 30) for name in COUNTS}


def test_plan_that_holds_is_forecast_exactly() -> None:
    seconds = random_plan(random.Random(0))
    assert worst_error_after_a_quarter(seconds, [1.0] * len(COUNTS)) < 0.02


def test_run_that_is_slower_or_faster_by_up_to_a_half_is_forecast_within_30_percent() -> None:
    rng = random.Random(1)
    for factor in (0.5, 0.6, 0.8, 1.2, 1.5, *(rng.uniform(0.5, 1.5) for _ in range(60))):
        assert worst_error_after_a_quarter(random_plan(rng), [factor] * len(COUNTS)) <= 0.3, factor


def test_phases_that_deviate_by_up_to_a_half_independently_are_forecast_within_30_percent_with_few_exceptions() -> None:
    # What the phases still to come take cannot be known: one plan in ten may be further off, none by its double.
    rng = random.Random(2)
    factors = [[rng.uniform(0.5, 1.5) for _ in COUNTS] for _ in range(120)]
    errors = [worst_error_after_a_quarter(random_plan(rng), entry) for entry in factors]
    assert sum(error > 0.3 for error in errors) <= 0.1 * len(errors)
    assert max(errors) < 0.75


def test_forecast_counts_down_during_a_long_training_and_is_never_negative() -> None:
    forecast = forecast_of({"finalists": 100.0, "race": 50.0})
    found = [
        forecast.left_seconds({"finalists": float(now)}, Activity("finalists", float(now), 0, 4)) for now in range(400)
    ]
    assert found[0] == pytest.approx(150.0)
    assert all(later < earlier for earlier, later in itertools.pairwise(found))
    assert min(found) > 50.0, "the race is still to come"


def test_phase_that_fills_its_time_ends_at_its_deadline() -> None:
    forecast = Forecast(
        [
            PlannedPhase("supernet", 60.0, 90.0),
            PlannedPhase("candidates", 30.0, 120.0, fills=True, longest_seconds=80.0),
            PlannedPhase("finalists", 40.0, 200.0),
            PlannedPhase(EVALUATION, 10.0),
        ]
    )
    # The supernet has ended after 20 s: screening may take its longest time, until 100.
    running = Activity("candidates", 10.0, 7, None, 9.0, limit_seconds=70.0)
    left = forecast.left_seconds({"supernet": 20.0, "candidates": 10.0}, running)
    # The supernet was three times as fast as planned, so the trainings are estimated to be faster as well.
    factor = (20 + 0.12 * 140) / (60 + 0.12 * 140)
    assert left == pytest.approx(70 + factor * (40 + 10))


def test_search_that_is_not_planned_yet_takes_its_budget_and_the_evaluation() -> None:
    forecast = budget_forecast(360.0, 20.0)
    assert forecast.left_seconds({"linear": 10.0}, Activity("linear", 10.0)) == pytest.approx(370.0)
    assert forecast.left_seconds({}, Activity("linear", 0.0)) == pytest.approx(380.0)


def test_forecast_of_a_plan_keeps_the_deadlines() -> None:
    deadlines = Deadlines(0.0, 100.0, 150.0, 200.0, 250.0, longest={"candidates": 1000.0}, left_out=frozenset({"race"}))
    plan = PhasePlan({"supernet": 100.0, "screening": 30.0, "short": 20.0, "finalists": 300.0}, {}, (), deadlines, 0.0)
    forecast = plan_forecast(plan, 12.0, fills=True)
    left = forecast.left_seconds({"supernet": 50.0}, Activity("supernet", 50.0, 1, 2, 50.0, limit_seconds=50.0))
    assert left == pytest.approx(250.0 - 50.0 + 12.0), "full trainings end with the budget"


def test_running_phase_is_forecast_by_its_own_speed_once_half_is_done() -> None:
    forecast = forecast_of({"supernet": 100.0})
    left = forecast.left_seconds({"supernet": 90.0}, Activity("supernet", 90.0, 60, 100, 90.0))
    assert left == pytest.approx(60.0)
    assert not math.isinf(left)
