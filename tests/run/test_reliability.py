"""The reliability of the result of a search."""

from collections.abc import Sequence

import pytest

from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.run.race_report import Margin, RaceReport
from nas.run.reliability import (
    Agreement,
    ReliabilityReport,
    agreement,
    agreement_text,
    build_report,
)
from nas.search.selection_bias import ExpectedScore
from nas.search.trial import Result, Stage
from tests.support.factories import make_result


def results(stage: Stage, scores: dict[int, float]) -> list[Result]:
    return [
        make_result(trial=trial, architecture=PMFArchitecture(1, 1, 1, 1, 1 + trial), stage=stage, score=score)
        for trial, score in scores.items()
    ]


def by_stage(
    one_shot: dict[int, float] | None = None,
    short: dict[int, float] | None = None,
    full: dict[int, float] | None = None,
) -> dict[Stage, list[Result]]:
    return {
        "one_shot": results("one_shot", one_shot or {}),
        "short": results("short", short or {}),
        "full": results("full", full or {}),
    }


def report(best: Sequence[float], default: Sequence[float] = (), title: str = "PMF") -> ReliabilityReport:
    """The report of a search in which only the reruns are known."""
    return build_report(
        "accuracy",
        by_stage(),
        seeds={"best": results("full", dict(enumerate(best)))}
        | ({"default": results("full", dict(enumerate(default)))} if default else {}),
        phases={},
        title=title,
    )


def test_agreement_is_kendalls_tau_of_the_candidates_with_both_scores() -> None:
    scores = by_stage(
        {0: 0.1, 1: 0.2, 2: 0.3, 3: 0.4, 9: 0.99}, {3: 0.8, 2: 0.9, 1: 0.6, 0: 0.5}, {0: 0.5, 1: 0.5, 2: 0.5}
    )
    # Of six pairs, five are in the same order.
    found = agreement("one_shot", "short", scores)
    assert found.count == 4 and found.tau == pytest.approx((5 - 1) / 6)
    assert agreement("one_shot", "full", scores) == Agreement("one_shot", "full", 3, None), "all scores are equal"
    assert agreement("one_shot", "short", by_stage({0: 0.1, 1: 0.2}, {0: 0.1, 1: 0.2})).tau is None, "too few"
    assert agreement("one_shot", "short", by_stage()).count == 0


def test_scores_that_did_not_predict_are_reported_as_such() -> None:
    assert agreement_text(Agreement("short", "full", 4, 0.67)) == (
        "the scores of short training predicted those of full training (rank agreement 0.67 over 4 candidates; 1 is "
        "perfect)"
    )
    assert "did not predict" in agreement_text(Agreement("short", "full", 4, 0.29))
    assert "did not predict" not in agreement_text(Agreement("short", "full", 4, 0.3))
    assert "too few" in agreement_text(Agreement("one_shot", "full", 2, None))
    assert "are equal" in agreement_text(Agreement("one_shot", "full", 3, None))


def test_report_states_everything_that_is_known() -> None:
    found = build_report(
        "accuracy",
        by_stage({0: 0.1, 1: 0.2, 2: 0.3}, {0: 0.3, 1: 0.2, 2: 0.1}, {0: 0.6}),
        seeds={
            "best": results("full", {0: 0.61, 1: 0.63, 2: 0.62}),
            "default": results("full", {0: 0.60, 1: 0.55, 2: 0.62}),
        },
        phases={"supernet": 30.0, "candidates": 60.0, "finalists": 10.0},
        race=RaceReport(
            models=2,
            trainings=6,
            comparisons=2,
            answer="default",
            margins={"default": Margin(0.03, -0.01, 0.07)},
            held_out=0.615,
            expected=ExpectedScore(0.59, 0.55, 0.63, 0.0),
        ),
    )
    assert found.lines() == [
        "the scores of screening did not predict those of short training (rank agreement −1.00 over 3 candidates; 1 is "
        "perfect): a dropped architecture may be as good",
        "short training and full training: 1 candidate(s) with both scores, too few to compare the rankings",
        "screening and full training: 1 candidate(s) with both scores, too few to compare the rankings",
        "best: validation accuracy 0.620, mean of 3 seeds (standard deviation 0.010)",
        "PMF default: validation accuracy 0.590, mean of 3 seeds (standard deviation 0.036)",
        "best minus PMF default: +0.030 validation accuracy, 95 % interval -0.010 to +0.070; this difference may be "
        "luck",
        "expected test accuracy of the answer: 0.590, 90 % interval 0.550 to 0.630",
        "time: supernet 30s (30%), screening 1m00s (60%), full training 10s (10%); results: 3 screened, 3 trained "
        "briefly, 1 trained completely",
    ]
    assert found.as_dict()["race"]["margins"]["default"] == {"difference": 0.03, "low": -0.01, "high": 0.07}


def test_report_of_one_seed_without_a_default_admits_how_little_is_known() -> None:
    found = report([0.61])
    assert found.lines() == ["best: validation accuracy 0.610 with one seed; the variation between seeds is unknown"]
    assert found.as_dict()["race"] is None


def test_stage_without_results_is_not_compared() -> None:
    found = build_report(
        "accuracy",
        by_stage({0: 0.1, 1: 0.2, 2: 0.3}, None, {0: 0.4, 1: 0.5, 2: 0.6}),
        seeds={"best": results("full", {2: 0.6})},
        phases={},
    )
    assert [(entry.cheaper, entry.dearer) for entry in found.agreements] == [("one_shot", "full")]
