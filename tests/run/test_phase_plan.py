"""The division of a time budget, for data of all sizes, budgets and numbers of workers."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.common.errors import BudgetError
from nas.config.defaults import Facts, resolve
from nas.config.load import parse_config
from nas.config.schema import Config
from nas.run.checks import check_time
from nas.run.phase_plan import MAX_SHARE, MIN_SHARE, PhasePlan, least_seconds, plan_phases
from nas.run.progress_lines import plan_lines
from nas.run.speed import TrainingSpeed
from nas.search.space import EncoderSizes

DEMO = EncoderSizes(image_layers=12, text_layers=6, image_hidden_size=192, text_hidden_size=384)
SIZES = (180, 1_000, 6_000, 40_000)


def config_for(samples: int, seconds: float = 3_600.0, **sections: Any) -> Config:
    values = {
        "name": "little",
        "data": {"manifest": "manifest.csv"},
        **sections,
        "budget": {"time": f"{seconds:f}s", **sections.get("budget", {})},
    }
    draft = parse_config(values, source="search.yaml", base_directory=Path("/project"))
    return resolve(draft, Facts(samples, DEMO, memory_bytes=2**30, encoders=("vit", "bert")), source="search.yaml")[0]


def speed_for(samples: int, workers: int = 2, step: float = 0.05) -> TrainingSpeed:
    """Return the speed where a fifth as many samples are for validation, and evaluation is three times as fast."""
    batch_size = config_for(samples).recipe.batch_size
    return TrainingSpeed(step, step * samples / 5 / batch_size / 3, workers)


def planned(config: Config, speed: TrainingSpeed, samples: int, factor: float = 1.0, spent: float = 0.0) -> PhasePlan:
    full = config.recipe.step_count(samples)
    return plan_phases(config, speed, full_steps=full, tuned_steps=round(full * factor), spent_seconds=spent)


@settings(deadline=None)
@given(st.sampled_from(SIZES), st.floats(0, 3), st.sampled_from([1, 2, 3, 4, 8]), st.sampled_from([1.0, 2.0]))
def test_every_phase_of_training_gets_its_part_or_is_left_out(
    samples: int, magnitude: float, workers: int, factor: float
) -> None:
    speed = speed_for(samples, workers)
    any_budget = config_for(samples)
    least = least_seconds(any_budget, speed, any_budget.recipe.step_count(samples))
    config = config_for(samples, least * 10**magnitude)
    plan = planned(config, speed, samples)
    if "recipe" in plan.seconds:
        plan = planned(config, speed, samples, factor)
    budget = config.budget.time_seconds or 0.0
    total = sum(plan.seconds.values())
    assert total == pytest.approx(budget - plan.unneeded_seconds) and total <= budget * 1.000001
    assert set(plan.seconds) | set(plan.left_out) == {"recipe", "supernet", "screening", "short", "finalists", "race"}
    for phase, seconds in plan.seconds.items():
        if phase != "screening":
            assert MIN_SHARE * 0.999 <= seconds / total <= MAX_SHARE * 1.001, (phase, plan)
    assert plan.seconds["screening"] + plan.seconds.get("short", 0.0) >= config.search.eval_batch * (
        speed.evaluation_seconds
    )
    ends = plan.deadlines
    assert ends.recipe_seconds <= ends.supernet_seconds <= ends.candidates_seconds <= ends.finalists_seconds
    assert ends.total_seconds == pytest.approx(budget)


@pytest.mark.parametrize("samples", SIZES)
def test_short_training_is_shorter_than_full_training(samples: int) -> None:
    config = config_for(samples)
    assert config.search.short_training_steps <= 0.11 * config.recipe.step_count(samples)


@pytest.mark.parametrize("samples", SIZES)
def test_all_phases_are_planned_where_there_is_time(samples: int) -> None:
    config = config_for(samples, 100_000.0)
    plan = planned(config, speed_for(samples), samples)
    assert not plan.left_out and not plan.corrections
    assert plan.unneeded_seconds > 0, "a search ends when more would not pay"
    assert plan.deadlines.longest["candidates"] < math.inf
    counted = planned(config_for(samples, 100_000.0, budget={"trials": 700}), speed_for(samples), samples)
    assert counted.deadlines.longest["candidates"] == math.inf, "a number of candidates that is given is kept"
    (line,) = plan_lines(plan, 100_000.0)
    assert " of the 27h46m are not needed" in line


def test_phases_of_a_short_search_are_left_out_with_the_reason() -> None:
    speed = speed_for(6_000)
    plan = planned(config_for(6_000, 48.0), speed, 6_000)
    assert set(plan.seconds) == {"supernet", "screening", "finalists"}
    shown = "\n".join(plan_lines(plan, 48.0))
    assert shown.startswith("Plan: supernet ")
    assert "\nLeft out: recipe: 4s hold 0 trainings of the default, too few to choose a setting; expected 3\n" in shown
    assert (
        "\nLeft out: race: what the first full trainings leave of " in shown
        and "\nLeft out: short training: the " in shown
    )
    corrected = "0.35 of the time is 17s, but the default's full training takes 29s and a candidate's up to 41s; "
    assert f"\nCorrected: budget.finalists_fraction: {corrected}" in shown


@pytest.mark.parametrize(("process_count", "trainings"), [(2, 0.6 * 3.9), (1, 2.4)])
def test_time_for_full_trainings_holds_that_of_a_slower_candidate(process_count: int, trainings: float) -> None:
    speed = replace(speed_for(1_000), process_count=process_count)
    training = speed.full_seconds(config_for(1_000).recipe.step_count(1_000))
    plan = planned(config_for(1_000, 3.9 * training), speed, 1_000)
    assert plan.deadlines.total_seconds - plan.deadlines.candidates_seconds == pytest.approx(trainings * training)
    assert plan.seconds["finalists"] == pytest.approx(2 * training)


def test_settings_that_leave_a_phase_out_are_named() -> None:
    config = config_for(1_000, 600.0, budget={"recipe_fraction": 0}, search={"rerun_seeds": 0})
    plan = planned(config, speed_for(1_000), 1_000)
    assert plan.left_out == {
        "recipe": "budget.recipe_fraction is 0, the recipe is used as it is",
        "race": "search.rerun_seeds is 0",
    }
    assert plan.deadlines.finalists_seconds == plan.deadlines.total_seconds


def test_distillation_gets_its_time_at_the_end_of_the_race_or_is_left_out() -> None:
    speed = speed_for(1_000)
    training = speed.full_seconds(config_for(1_000).recipe.step_count(1_000))
    without = planned(config_for(1_000, 3_600.0), speed, 1_000)
    plan = planned(config_for(1_000, 3_600.0, search={"distill": True}), speed, 1_000)
    assert plan.seconds["distillation"] == pytest.approx(1.5 * training), "two trainings at once, and the ensemble"
    assert plan.deadlines.race_seconds == pytest.approx(plan.deadlines.total_seconds - 1.5 * training)
    assert plan.deadlines.finalists_seconds == without.deadlines.finalists_seconds < plan.deadlines.race_seconds
    assert "distillation" not in without.seconds and "distillation" not in without.left_out
    assert without.deadlines.race_seconds == without.deadlines.total_seconds
    assert " → distillation " in plan_lines(plan, 3_600.0)[0]
    short = planned(config_for(1_000, 4 * training, search={"distill": True}), speed, 1_000)
    assert "distillation" not in short.seconds and short.deadlines.race_seconds == short.deadlines.total_seconds
    assert "for full trainings is shorter than the " in short.left_out["distillation"]


def test_supernet_that_eats_the_time_is_corrected_and_named() -> None:
    config = config_for(180, 3_600.0, supernet={"steps": 1_000_000})
    plan = planned(config, speed_for(180), 180)
    total = sum(plan.seconds.values())
    assert plan.seconds["supernet"] <= MAX_SHARE * total * 1.001
    (line,) = plan.corrections
    assert line.startswith("supernet.steps: 1000000 steps would take more than 70% of the time; corrected to about ")
    assert plan.deadlines.longest["supernet"] == pytest.approx(plan.seconds["supernet"])


def test_start_of_full_trainings_counts_in_them_but_not_in_short_ones() -> None:
    config, speed = config_for(1_000, 600.0), speed_for(1_000)
    steps = config.recipe.step_count(1_000)
    slow = replace(speed, start_seconds=5.0)
    assert slow.full_seconds(steps) == 5.0 + speed.full_seconds(steps)
    assert least_seconds(config, slow, steps) > least_seconds(config, speed, steps)
    first, later = (planned(config, entry, 1_000).seconds for entry in (speed, slow))
    assert later["finalists"] == pytest.approx(first["finalists"] + 3 * 5.0), "three rounds of two"


def test_time_before_the_phases_is_taken_off_and_shifts_their_ends() -> None:
    speed = speed_for(1_000)
    first = planned(config_for(1_000, 300.0), speed, 1_000)
    later = planned(config_for(1_000, 320.0), speed, 1_000, spent=20.0)
    assert later.seconds == pytest.approx(first.seconds)
    assert later.deadlines.supernet_seconds == pytest.approx(first.deadlines.supernet_seconds + 20)
    assert later.deadlines.total_seconds == 320


def test_budget_that_holds_no_training_is_refused_with_the_least_that_does(tmp_path: Path) -> None:
    speed = speed_for(6_000)
    steps = config_for(6_000).recipe.step_count(6_000)
    with pytest.raises(BudgetError, match=r"time budget 30s: holds no full training of the PMF default") as caught:
        check_time(config_for(6_000, 30.0), speed, tmp_path, full_steps=steps, spent_seconds=2.0)
    message = str(caught.value)
    assert f"takes about 29s ({steps} steps) and gets at most 70% of the time; expected at least 51s: " in message
    assert message.endswith(f"resume {tmp_path} --budget 51s")
    check_time(config_for(6_000, 50.0), speed, tmp_path, full_steps=steps, spent_seconds=2.0)
