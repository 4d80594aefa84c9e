"""The verdict at the top of the final report."""

from dataclasses import replace
from pathlib import Path

from nas.run.race_report import Margin, RaceReport
from nas.run.reliability import ReliabilityReport, Spread
from nas.run.verdict import verdict
from nas.search.selection_bias import ExpectedScore

RUN = Path("runs/demo")
USE_LINEAR = (
    "; use the linear classifier, which is simpler: python run_search.py export runs/demo --output DIR --pick linear"
)
USE_DEFAULT = "; use the default, which is simpler: runs/demo/default"


def report(
    best: float,
    default: float | None = None,
    linear: float | None = None,
    *,
    half: float = 0.05,
    answer: str = "best",
    is_default: bool = False,
) -> ReliabilityReport:
    """Return the report of a race in which all intervals have one width."""
    others = {"linear": linear, "default": None if is_default else default}
    margins = {
        role: Margin(best - value, best - value - half, best - value + half)
        for role, value in others.items()
        if value is not None
    }
    return ReliabilityReport(
        metric="accuracy",
        agreements=(),
        best=Spread((best,)),
        simple={
            role: Spread((value,)) for role, value in (("linear", linear), ("default", default)) if value is not None
        },
        phases={},
        trainings={"one_shot": 1, "short": 1, "full": 1},
        is_default_best=is_default,
        race=RaceReport(
            models=3,
            trainings=9,
            comparisons=1,
            answer=answer,
            margins=margins,
            held_out=best,
            expected=ExpectedScore(best, best - half, best + half, 0.0),
        ),
    )


def test_best_that_beats_both() -> None:
    assert verdict(report(0.91, 0.81, 0.7), RUN) == (
        "The best architecture beats the linear classifier (+0.210, 95 % interval +0.160 to +0.260) and the PMF "
        "default (+0.100, 95 % interval +0.050 to +0.150) beyond chance in validation accuracy."
    )
    assert verdict(report(0.91, linear=0.7), RUN).startswith(
        "The best architecture beats the linear classifier (+0.210"
    )
    assert verdict(report(0.91, 0.81), RUN).startswith("The best architecture beats the PMF default (+0.1")


def test_best_that_does_not_beat_the_linear_classifier() -> None:
    found = verdict(report(0.83, 0.81, 0.82, answer="linear"), RUN)
    assert found.startswith("The best architecture does not beat the linear classifier beyond chance in validation ac")
    assert "(+0.010, 95 % interval -0.040 to +0.060)" in found and found.endswith(USE_LINEAR)
    assert verdict(report(0.7, linear=0.82, answer="linear"), RUN).endswith(USE_LINEAR)
    found = verdict(report(0.86, 0.85, 0.82, answer="default"), RUN)
    assert found.endswith("but the PMF default does" + USE_DEFAULT)


def test_best_that_beats_only_the_linear_classifier() -> None:
    found = verdict(report(0.83, 0.81, 0.7, answer="default"), RUN)
    assert "beats the linear classifier (+0.130" in found and ", but not the PMF default (+0.020" in found
    assert found.endswith(USE_DEFAULT)
    assert verdict(report(0.83, 0.81, answer="default"), RUN).endswith(USE_DEFAULT)


def test_without_a_race_nothing_is_beyond_chance() -> None:
    found = verdict(replace(report(0.9, 0.8, 0.85), race=None), RUN)
    assert "does not beat the linear classifier beyond chance" in found
    assert "(+0.050, spread over seeds unknown)" in found and found.endswith(USE_LINEAR)


def test_default_that_is_the_best_is_compared_with_the_linear_classifier_only() -> None:
    found = verdict(report(0.91, 0.91, 0.7, is_default=True), RUN)
    assert found.startswith("The best architecture, which is the PMF default, beats the linear classifier (+0.210")
    assert found.endswith(" beyond chance in validation accuracy.")


def test_lone_best_has_nothing_to_be_compared_with() -> None:
    assert verdict(report(0.9), RUN) == "There is no simpler model to compare with."


def test_ensemble_that_is_the_answer_is_named_instead_of_a_simpler_model() -> None:
    for linear, answer in ((0.82, "linear"), (0.7, "default")):
        found = verdict(report(0.83, 0.81, linear, answer=answer), RUN, is_ensemble=True)
        assert "not" in found and found.endswith("; the answer is the ensemble of several models")
