"""The verdict at the top of the final report."""

from dataclasses import replace

from nas.run.race_report import Margin, RaceReport
from nas.run.reliability import ReliabilityReport, Spread
from nas.run.verdict import verdict
from nas.search.selection_bias import ExpectedScore

LINEAR_IS_IT = "; the answer is the linear classifier, which is simpler."
DEFAULT_IS_IT = "; the answer is the PMF default, which is simpler."


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
        answer=answer,
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
    assert verdict(report(0.91, 0.81, 0.7)) == (
        "The best architecture beats the linear classifier (+0.210, 95 % interval +0.160 to +0.260) and the PMF "
        "default (+0.100, 95 % interval +0.050 to +0.150) beyond chance in validation accuracy."
    )
    assert verdict(report(0.91, linear=0.7)).startswith("The best architecture beats the linear classifier (+0.210")
    assert verdict(report(0.91, 0.81)).startswith("The best architecture beats the PMF default (+0.1")


def test_best_that_does_not_beat_the_linear_classifier() -> None:
    assert verdict(report(0.83, 0.7, 0.82, answer="linear")) == (
        "The best architecture beats the PMF default (+0.130, 95 % interval +0.080 to +0.180), but not the linear "
        "classifier (+0.010, 95 % interval -0.040 to +0.060), beyond chance in validation accuracy" + LINEAR_IS_IT
    )
    found = verdict(report(0.83, 0.81, 0.82, answer="linear"))
    assert found.startswith("The best architecture does not beat the linear classifier (+0.010")
    assert " or the PMF default (+0.020" in found and found.endswith(LINEAR_IS_IT)
    assert verdict(report(0.7, linear=0.82, answer="linear")).endswith(LINEAR_IS_IT)


def test_default_that_beats_the_linear_classifier_is_the_answer_although_the_best_beats_neither() -> None:
    assert verdict(report(0.86, 0.85, 0.82, answer="default")).endswith(
        "; the answer is the PMF default, which is simpler, because the linear classifier is worse than another model."
    )


def test_best_that_beats_only_the_linear_classifier() -> None:
    found = verdict(report(0.83, 0.81, 0.7, answer="default"))
    assert "beats the linear classifier (+0.130" in found and ", but not the PMF default (+0.020" in found
    assert found.endswith(DEFAULT_IS_IT)
    assert verdict(report(0.83, 0.81, answer="default")).endswith(DEFAULT_IS_IT)


def test_simpler_model_that_violates_a_constraint_is_named_with_it() -> None:
    excluded = {"linear": "trainable_parameters <= 10"}
    clause = "; the linear classifier is not the answer, because it does not meet trainable_parameters <= 10"
    found = verdict(replace(report(0.83, 0.81, 0.82, answer="default"), excluded=excluded))
    assert found.endswith(clause + DEFAULT_IS_IT)
    found = verdict(replace(report(0.83, linear=0.82), excluded=excluded))
    assert found.endswith(clause + "; the answer is the best architecture.")
    unknown = verdict(replace(report(0.83, linear=0.9), race=None, excluded=excluded))
    assert unknown.endswith(clause + "; the answer is the model with the highest one, the best architecture.")
    assert "does not meet" not in verdict(replace(report(0.91, 0.81, 0.7), excluded=excluded)), "it is beaten anyway"


def test_without_a_race_the_spread_over_seeds_is_unknown() -> None:
    known = report(0.8, 0.9, 0.85, answer="default")
    assert known.race is not None
    for race in (None, replace(known.race, comparisons=0)):
        assert verdict(replace(known, race=race)) == (
            "The spread over seeds is unknown; validation accuracy: the linear classifier 0.850, the PMF default "
            "0.900, the best architecture 0.800; the answer is the model with the highest one, the PMF default."
        )
    tied = verdict(replace(report(0.9, 0.8, 0.9, answer="linear"), race=None))
    assert tied.endswith("the answer is the simplest of the models with the highest one, the linear classifier.")
    assert verdict(replace(known, race=None), other="ensemble").endswith(
        "; the answer is the ensemble of several models."
    )


def test_default_that_is_the_best_is_compared_with_the_linear_classifier_only() -> None:
    found = verdict(report(0.91, 0.91, 0.7, is_default=True))
    assert found.startswith("The best architecture, which is the PMF default, beats the linear classifier (+0.210")
    assert found.endswith(" beyond chance in validation accuracy.")


def test_lone_best_has_nothing_to_be_compared_with() -> None:
    for found in (report(0.9), report(0.9, 0.9, is_default=True)):
        assert verdict(found) == "There is no simpler model to compare with."


def test_ensemble_that_is_the_answer_is_named_instead_of_a_simpler_model() -> None:
    for linear, answer in ((0.82, "linear"), (0.7, "default")):
        found = verdict(report(0.83, 0.81, linear, answer=answer), other="ensemble")
        assert "not" in found and found.endswith("; the answer is the ensemble of several models.")
