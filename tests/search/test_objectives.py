from dataclasses import replace

import pytest

from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.search.objectives import Constraint, Objectives, Pick, pick, shown_cost
from nas.search.space import Architecture
from nas.search.trial import Result
from tests.support.factories import make_result


class Width:
    """An architecture costs its mapping width."""

    def parameter_count(self, architecture: Architecture) -> int:
        (sizes, _) = architecture.at(0)
        return sizes.mapping_width

    def architecture_bytes(self, architecture: Architecture) -> int:
        return 10 * self.parameter_count(architecture)


def result(trial: int, score: float, width: int = 8, latency: float | None = None) -> Result:
    architecture = PMFArchitecture(1, 1, 1, 1, width)
    metrics = {"accuracy": score, "macro_f1": score / 2}
    return make_result(
        trial=trial, architecture=architecture, stage="full", score=score, metrics=metrics, latency_seconds=latency
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
def test_a_bound_is_read_and_written(text: str, quantity: str, bound: float) -> None:
    constraint = Constraint.parse(text)
    assert constraint == Constraint(quantity, pytest.approx(bound))
    assert Constraint.parse(str(constraint)) == constraint


@pytest.mark.parametrize(
    "text",
    ["memory <= 2GiB", "peak_memory >= 2GiB", "peak_memory <= 2", "accuracy <= 0.5", "latency <= 5m", "", "latency"],
)
def test_what_is_no_bound_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        Constraint.parse(text)


def test_one_objective_is_ranked_by_score_then_trial() -> None:
    results = [result(2, 0.5), result(0, 0.5), result(1, 0.7)]
    assert [entry.trial for entry in Objectives("accuracy").ranked(results)] == [1, 0, 2]


def test_costs_are_better_when_lower_and_the_front_is_ranked_first() -> None:
    objectives = Objectives("accuracy", ["trainable_parameters", "peak_memory", "latency"], (), Width())
    assert objectives.values(result(0, 0.5, 8, 0.25)) == (0.5, -8, -80, -0.25)
    two = Objectives("accuracy", ["trainable_parameters"], (), Width())
    results = [result(0, 0.5, 8), result(1, 0.4, 9), result(2, 0.9, 20), result(3, 0.6, 9)]
    assert [entry.trial for entry in two.front(results)] == [2, 3, 0]
    assert [entry.trial for entry in two.ranked(results)][-1] == 1


def test_who_breaks_a_bound_comes_last_and_is_not_picked() -> None:
    bounds = [Constraint("latency", 0.1), Constraint("macro_f1", 0.2)]
    objectives = Objectives("accuracy", (), bounds)
    slow, poor, good = result(0, 0.9, latency=0.2), result(1, 0.3, latency=0.01), result(2, 0.5, latency=0.1)
    assert [entry.trial for entry in objectives.ranked([slow, poor, good])] == [2, 0, 1]
    assert not objectives.is_eligible(poor)
    assert objectives.is_eligible(replace(poor, stage="short")), "bounds on metrics are for full trainings"
    assert pick([slow, poor, good], objectives, "best", size=Width().parameter_count) == good
    assert pick([slow], objectives, "best", size=Width().parameter_count) is None


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
def test_picks(how: Pick, within: float, expected: int) -> None:
    objectives = Objectives("accuracy", ["trainable_parameters"], (), Width())
    results = [result(0, 0.2, 1), result(1, 0.7, 20), result(2, 0.79, 70), result(3, 0.8, 100)]
    picked = pick(results, objectives, how, size=Width().parameter_count, within=within)
    assert picked is not None and picked.trial == expected


def test_costs_are_shown_in_their_units() -> None:
    assert shown_cost("peak_memory", 2**30) == "1.00 GiB"
    assert shown_cost("latency", 0.0125) == "12.50 ms"
    assert shown_cost("trainable_parameters", 1234567) == "1,234,567"
