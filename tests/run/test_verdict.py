"""The verdict at the top of the final report."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from scipy.stats import ttest_1samp

from nas.run.reliability import ReliabilityReport, Spread, margin_over_value
from nas.run.verdict import verdict

RUN = Path("runs/demo")
USE_LINEAR = (
    "; use the linear classifier, which is simpler: python run_search.py export runs/demo --output DIR --pick linear"
)
USE_DEFAULT = "; use the default, which is simpler: runs/demo/default"


def text(
    best: Sequence[float],
    default: Sequence[float] = (),
    linear: float | None = None,
    *,
    is_default: bool = False,
    is_ensemble: bool = False,
) -> str:
    report = ReliabilityReport(
        metric="accuracy",
        agreements=(),
        best=Spread(tuple(best)),
        default=Spread(tuple(default)) if default else None,
        phases={},
        trainings={"one_shot": 1, "short": 1, "full": 1},
        linear=linear,
        is_default_best=is_default,
    )
    return verdict(report, RUN, is_ensemble=is_ensemble)


def test_margin_over_a_value_is_the_interval_of_a_t_test() -> None:
    scores = (0.81, 0.84, 0.82, 0.86)
    expected = ttest_1samp(scores, 0.8).confidence_interval()
    assert margin_over_value(Spread(scores), 0.8) == pytest.approx((0.0325, expected.low - 0.8, expected.high - 0.8))


def test_best_that_beats_both() -> None:
    assert text([0.90, 0.91, 0.92], [0.80, 0.81, 0.82], 0.7) == (
        "The best architecture beats the linear classifier (+0.210, 95 % interval +0.185 to +0.235) and the PMF "
        "default (+0.100, 95 % interval +0.077 to +0.123) beyond chance in validation accuracy."
    )
    assert text([0.90, 0.91, 0.92], linear=0.7).startswith("The best architecture beats the linear classifier (+0.210")
    assert text([0.90, 0.91, 0.92], [0.80, 0.81, 0.82]).startswith("The best architecture beats the PMF default (+0.1")


def test_best_that_does_not_beat_the_linear_classifier() -> None:
    found = text([0.80, 0.84, 0.85], [0.80, 0.81, 0.82], 0.82)
    assert found.startswith("The best architecture does not beat the linear classifier beyond chance in validation ac")
    assert "(+0.010, 95 % interval -0.056 to +0.076)" in found and found.endswith(USE_LINEAR)
    assert text([0.7, 0.71], linear=0.82).endswith(USE_LINEAR)
    found = text([0.80, 0.86, 0.91], [0.840, 0.841, 0.842], 0.82)
    assert found.endswith("but the PMF default does" + USE_DEFAULT)


def test_best_that_beats_only_the_linear_classifier() -> None:
    found = text([0.80, 0.84, 0.85], [0.80, 0.81, 0.82], 0.7)
    assert "beats the linear classifier (+0.130" in found and ", but not the PMF default (+0.020" in found
    assert found.endswith(USE_DEFAULT)
    assert text([0.80, 0.84, 0.85], [0.80, 0.81, 0.82]).endswith(USE_DEFAULT)


def test_one_seed_shows_nothing_beyond_chance() -> None:
    found = text([0.9], [0.8], 0.85)
    assert "does not beat the linear classifier beyond chance" in found
    assert "(+0.050, spread over seeds unknown)" in found


def test_default_that_is_the_best_is_compared_with_the_linear_classifier_only() -> None:
    found = text([0.90, 0.91, 0.92], [0.90, 0.91, 0.92], 0.7, is_default=True)
    assert found.startswith("The best architecture, which is the PMF default, beats the linear classifier (+0.210")
    assert found.endswith(" beyond chance in validation accuracy.")


def test_lone_best_has_nothing_to_be_compared_with() -> None:
    assert text([0.9]) == "There is no simpler model to compare with."


def test_ensemble_that_is_the_answer_is_named_instead_of_a_simpler_model() -> None:
    for default, linear in (([0.80, 0.81, 0.82], 0.82), ([0.80, 0.81, 0.82], 0.7)):
        found = text([0.80, 0.84, 0.85], default, linear, is_ensemble=True)
        assert "not" in found and found.endswith("; the answer is the ensemble of several models")
