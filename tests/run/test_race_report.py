"""Which model is the answer of a search, and how the report says so."""

import math
from collections.abc import Collection

import numpy as np
import pytest

from nas.run.race_report import RaceReport, report_race
from nas.search.racing import Race, SeedScores, scores_of_samples

TITLES = {"linear": "linear classifier", "default": "PMF default"}


def models(*accuracies: float, seeds: int = 3) -> dict[str, SeedScores]:
    """Return models whose predictions are right on a part of 400 samples, each with other seeds."""
    rng = np.random.default_rng(0)
    difficulty = rng.random(400)
    names = ("linear", "default", "first", "second")
    field = {}
    for name, accuracy in zip(names, accuracies, strict=False):
        count = 1 if name == "linear" else seeds
        rows = difficulty + rng.normal(0, 0.05, (count, 400)) < accuracy
        field[name] = scores_of_samples(rows.astype(np.float64), has_luck=name != "linear")
    return field


def reported(field: dict[str, SeedScores], best: str = "first", excluded: Collection[str] = ()) -> RaceReport:
    standing = Race[str](3).standing(field, is_over=True)
    simple: dict[str, str] = {role: role for role in ("linear", "default") if role in field}
    return report_race(field, standing, best, simple, excluded=excluded, samples=400, test_samples=200)


@pytest.mark.parametrize(
    ("accuracies", "answer"),
    [
        ((0.5, 0.7, 0.9), "best"),
        ((0.5, 0.7, 0.7), "default"),
        ((0.5, 0.71, 0.5), "default"),
        ((0.7, 0.7, 0.7), "linear"),
        ((0.7, 0.5, 0.7), "linear"),
        ((0.9, 0.5, 0.6), "linear"),
    ],
)
def test_answer_is_the_simplest_model_that_no_other_exceeds_beyond_chance(
    accuracies: tuple[float, ...], answer: str
) -> None:
    found = reported(models(*accuracies))
    assert found.answer == answer
    assert [margin.low > 0 for margin in found.margins.values()].count(True) == 2 or answer != "best"


def test_expected_score_is_that_of_the_answer_and_corrected_only_if_it_was_selected() -> None:
    field = models(0.5, 0.7, 0.9, 0.9)
    best, default = reported(field), reported(models(0.5, 0.7, 0.7, 0.7))
    assert best.answer == "best" and 0 < best.expected.optimism < 0.02
    assert best.expected.value == pytest.approx(field["first"].mean - best.expected.optimism)
    assert best.expected.low < best.expected.value < best.expected.high
    assert default.answer == "default" and default.expected.optimism == 0
    assert "corrected for having been selected" in best.lines("accuracy", TITLES)[-1]
    assert "corrected" not in default.lines("accuracy", TITLES)[-1]
    for report, subject in ((best, "best architecture"), (default, "PMF default")):
        assert " of the answer: " in report.lines("accuracy", TITLES)[-1]
        beside = report.lines("accuracy", TITLES, other="ensemble")[-1]
        assert f"expected test accuracy of the {subject} alone, not of the ensemble: " in beside


@pytest.mark.parametrize(
    ("accuracies", "answer"),
    [((0.5, 0.7, 0.9), "best"), ((0.9, 0.7, 0.5), "linear"), ((0.5, 0.9, 0.7), "default"), ((2, 2, 2), "linear")],
)
def test_one_seed_each_leaves_the_highest_score_and_of_equal_ones_the_simplest(
    accuracies: tuple[float, ...], answer: str
) -> None:
    found = reported(models(*accuracies, seeds=1))
    assert (found.answer, found.comparisons, found.held_out) == (answer, 0, None)
    # The linear classifier has no luck of seeds.
    assert math.isfinite(found.expected.low) == (answer == "linear")
    assert len(found.lines("accuracy", TITLES)) == int(answer == "linear")


@pytest.mark.parametrize("seeds", [1, 3])
def test_model_that_violates_a_constraint_is_not_the_answer(seeds: int) -> None:
    field = models(0.9, 0.8, 0.5, seeds=seeds)
    assert [reported(field, excluded=names).answer for names in ((), ("linear",), ("linear", "default"))] == [
        "linear",
        "default",
        "best",
    ]
    assert list(reported(field, excluded=("linear",)).margins) == ["linear", "default"], "it is still compared"


def test_default_that_is_the_best_finalist_is_not_compared_with_itself() -> None:
    field = models(0.5, 0.9, 0.7)
    standing = Race[str](3).standing(field, is_over=True)
    found = report_race(
        field, standing, "default", {"linear": "linear", "default": "default"}, samples=400, test_samples=200
    )
    assert list(found.margins) == ["linear"] and found.answer == "best"
