from dataclasses import replace

import pytest

from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.search.metric_registry import METRICS, register_metric
from nas.search.objectives import Constraint, Objectives, Pick, broken_prediction, memory_constraint, pick
from nas.search.trial import Result
from tests.support.costs import WidthCosts
from tests.support.factories import make_result


def result(trial: int, score: float, width: int = 8, latency: float | None = None) -> Result:
    return make_result(
        trial=trial,
        architecture=PMFArchitecture(1, 1, 1, 1, width),
        stage="full",
        score=score,
        metrics={"accuracy": score, "macro_f1": score / 2},
        latency_seconds=latency,
    )


@pytest.mark.parametrize(
    ("text", "quantity", "bound"),
    [
        ("peak_memory <= 2GiB", "peak_memory", 2**31),
        (" trainable_parameters<=500k ", "trainable_parameters", 500_000),
        ("trainable_parameters <= 1.5M", "trainable_parameters", 1_500_000),
        ("trainable_parameters <= 1e6", "trainable_parameters", 1_000_000),
        ("latency <= 5ms", "latency", 0.005),
        ("accuracy >= 0.6", "accuracy", 0.6),
    ],
)
def test_constraints_are_parsed_and_formatted_without_loss(text: str, quantity: str, bound: float) -> None:
    constraint = Constraint.parse(text)
    assert constraint.quantity == quantity
    assert constraint.bound == pytest.approx(bound)
    assert Constraint.parse(str(constraint)) == constraint


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("memory <= 2GiB", "expected peak_memory or trainable_parameters or latency with <= and a bound, or accuracy"),
        ("peak_memory >= 2GiB", "expected peak_memory or"),
        ("accuracy <= 0.5", "expected peak_memory or"),
        ("cross_entropy >= 0.5", "expected peak_memory or"),
        ("latency", "expected peak_memory or"),
        ("", "expected peak_memory or"),
        ("peak_memory <= 2", "peak_memory: expected a number with a unit from B, .*, got '2'"),
        ("latency <= 5m", "latency: expected a number with ms or s, .* got '5m'"),
        ("trainable_parameters <= 5G", "trainable_parameters: expected a number with no unit or k or M, .* got '5G'"),
        ("accuracy >= nan", "accuracy: expected a number with no unit, at most 1e\\+18, got 'nan'"),
    ],
)
def test_malformed_constraints_are_rejected(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        Constraint.parse(text)


def test_bound_on_a_metric_of_which_lower_is_better_is_an_upper_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [*METRICS]
    monkeypatch.setattr(METRICS, "_entries", {name: METRICS[name] for name in names})
    register_metric("calibration_error", "nas.training.metrics:accuracy", higher_is_better=False)
    constraint = Constraint.parse("calibration_error <= 0.1")
    assert str(constraint) == "calibration_error <= 0.10000000000000001"
    assert constraint.cost is None and constraint.is_met(0.1) and not constraint.is_met(0.11)
    with pytest.raises(ValueError, match=r"latency or calibration_error with <= and a bound, or accuracy or"):
        Constraint.parse("calibration_error >= 0.1")


def test_predicted_costs_are_checked_before_a_run() -> None:
    constraints = [
        Constraint("accuracy", 0.5),
        Constraint("peak_memory", 1.0),  # left to the memory budget
        Constraint("latency", 0.001),  # measured
        Constraint("trainable_parameters", 8.0),
    ]
    assert memory_constraint(constraints) == constraints[1]
    assert memory_constraint(constraints[2:]) is None
    costs = WidthCosts()
    assert broken_prediction(constraints, costs, PMFArchitecture(1, 1, 1, 1, 8)) is None
    assert broken_prediction(constraints, costs, PMFArchitecture(1, 1, 1, 1, 9)) == (constraints[3], 9)


def test_predicted_costs_require_a_cost_model() -> None:
    with pytest.raises(ValueError, match="cost 'trainable_parameters' requires a cost model"):
        Objectives("accuracy", ["trainable_parameters"]).values(result(0, 0.5))


def test_a_single_objective_is_ranked_by_score_then_trial() -> None:
    results = [result(2, 0.5), result(0, 0.5), result(1, 0.7)]
    assert [entry.trial for entry in Objectives("accuracy").ranked(results)] == [1, 0, 2]


def test_lower_costs_are_better_and_the_front_is_ranked_first() -> None:
    objectives = Objectives("accuracy", ["trainable_parameters", "peak_memory", "latency"], (), WidthCosts())
    assert objectives.values(result(0, 0.5, 8, 0.25)) == (0.5, -8, -80, -0.25)
    two = Objectives("accuracy", ["trainable_parameters"], (), WidthCosts())
    results = [result(0, 0.5, 8), result(1, 0.4, 9), result(2, 0.9, 20), result(3, 0.6, 9)]
    assert [entry.trial for entry in two.front(results)] == [2, 3, 0]
    assert [entry.trial for entry in two.ranked(results)][-1] == 1


def test_results_that_break_a_constraint_are_ranked_last_and_not_picked() -> None:
    constraints = [Constraint("latency", 0.1), Constraint("macro_f1", 0.2)]
    objectives = Objectives("accuracy", (), constraints)
    slow, poor, good = result(0, 0.9, latency=0.2), result(1, 0.3, latency=0.01), result(2, 0.5, latency=0.1)
    assert [entry.trial for entry in objectives.ranked([slow, poor, good])] == [2, 0, 1]
    assert not objectives.is_eligible(poor)
    assert objectives.is_eligible(replace(poor, stage="short")), "constraints on metrics apply to full training only"
    assert pick([slow, poor, good], objectives, "best", size=WidthCosts().parameter_count) == good
    assert pick([slow], objectives, "best", size=WidthCosts().parameter_count) is None


@pytest.mark.parametrize(
    ("how", "within", "expected"),
    [
        ("best", 0.0, 3),
        ("smallest-within", 0.0, 3),
        ("smallest-within", 0.02, 2),
        ("smallest-within", 1.0, 0),
        ("knee", 0.0, 1),
    ],
)
def test_pick_applies_the_chosen_rule(how: Pick, within: float, expected: int) -> None:
    objectives = Objectives("accuracy", ["trainable_parameters"], (), WidthCosts())
    results = [result(0, 0.2, 1), result(1, 0.7, 20), result(2, 0.79, 70), result(3, 0.8, 100)]
    picked = pick(results, objectives, how, size=WidthCosts().parameter_count, within=within)
    assert picked is not None
    assert picked.trial == expected
