import math

import numpy as np
import pytest
from scipy.stats import ttest_ind

from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.run.reliability import Agreement, Spread, agreement, gathered, margin_over_seeds, verdict
from nas.search.trial import Result, Stage
from tests.support.factories import make_result


def results(stage: Stage, scores: dict[int, float]) -> list[Result]:
    return [
        make_result(trial=trial, architecture=PMFArchitecture(1, 1, 1, 1, 1 + trial), stage=stage, score=score)
        for trial, score in scores.items()
    ]


def test_agreement_is_kendalls_tau_of_those_that_have_both_scores() -> None:
    cheap = results("one_shot", {0: 0.1, 1: 0.2, 2: 0.3, 3: 0.4, 9: 0.99})
    dear = results("short", {3: 0.8, 2: 0.9, 1: 0.6, 0: 0.5})
    # Of six pairs, five are in the same order.
    assert agreement(cheap, dear) == Agreement("one_shot", "short", 4, pytest.approx((5 - 1) / 6))
    assert agreement(cheap, dear[:2]).tau is None
    assert agreement(cheap, results("short", {0: 0.5, 1: 0.5, 2: 0.5})).tau is None
    assert agreement([], dear).count == 0


def test_a_search_score_that_did_not_predict_is_called_that() -> None:
    assert verdict(Agreement("short", "full", 4, 0.67)) == (
        "short training against full training: Kendall's tau 0.67 over 4 candidates"
    )
    assert "did not predict" in verdict(Agreement("short", "full", 4, 0.29))
    assert "did not predict" not in verdict(Agreement("short", "full", 4, 0.3))
    assert "too few" in verdict(Agreement("one_shot", "full", 2, None))


def test_the_margin_over_seeds_is_welchs() -> None:
    first, second = (0.61, 0.59, 0.62), (0.58, 0.57, 0.55)
    difference, low, high = margin_over_seeds(Spread(first), Spread(second))
    expected = ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert difference == pytest.approx(np.mean(first) - np.mean(second))
    assert (low, high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert margin_over_seeds(Spread((0.6,)), Spread(second))[1:] == (-math.inf, math.inf)
    assert margin_over_seeds(Spread((0.6, 0.6)), Spread((0.5, 0.5))) == (pytest.approx(0.1), -math.inf, math.inf)


def test_everything_that_is_known_is_said() -> None:
    by_stage: dict[Stage, list[Result]] = {
        "one_shot": results("one_shot", {0: 0.1, 1: 0.2, 2: 0.3}),
        "short": results("short", {0: 0.3, 1: 0.2, 2: 0.1}),
        "full": results("full", {0: 0.6}),
    }
    found = gathered(
        "accuracy",
        by_stage,
        best=results("full", {0: 0.61, 1: 0.63, 2: 0.62}),
        default=results("full", {0: 0.60, 1: 0.55, 2: 0.62}),
        phases={"supernet": 30.0, "candidates": 60.0, "finalists": 10.0},
    )
    assert found.lines() == [
        "inherited weights against short training: Kendall's tau -1.00 over 3 candidates: the order by inherited "
        "weights did not predict the order by short training; do not rely on candidates that were left behind being "
        "worse",
        "short training against full training: too few candidates have both (1) to say whether they agree",
        "inherited weights against full training: too few candidates have both (1) to say whether they agree",
        "best: validation accuracy 0.6200 over 3 further seeds, standard deviation 0.0100",
        "PMF's default: validation accuracy 0.5900 over 3 further seeds, standard deviation 0.0361",
        found.lines()[5],
        "the time went to: supernet 30s (30%), candidates 1m00s (60%), finalists 10s (10%); results: 3 one_shot, 3 "
        "short, 1 full",
    ]
    assert found.lines()[5].startswith("the best over the default: +0.0300 accuracy on validation, 95 % interval -0.0")
    assert found.lines()[5].endswith("not more than chance between seeds can explain")
    assert found.as_dict()["margin"][0] == pytest.approx(0.03)


def test_one_seed_and_no_default_say_little_and_say_so() -> None:
    by_stage: dict[Stage, list[Result]] = {"one_shot": [], "short": [], "full": []}
    found = gathered("accuracy", by_stage, best=results("full", {0: 0.61}), default=[], phases={})
    assert found.lines() == ["best: validation accuracy 0.6100, with one seed; how much of that is luck is not known"]
    assert found.as_dict()["margin"] is None


@pytest.mark.parametrize(("best", "is_said"), [(0.60, True), (0.61, False), (0.62, False)])
def test_where_the_default_is_better_it_is_said_and_where_it_is(best: float, is_said: bool) -> None:
    by_stage: dict[Stage, list[Result]] = {"one_shot": [], "short": [], "full": []}
    found = gathered(
        *("accuracy", by_stage),
        best=results("full", {0: best}),
        default=results("full", {1: 0.61}),
        phases={},
        title="MBT",
    )
    said = [line for line in found.lines() if "MBT's default is better than what the search has found" in line]
    assert len(said) == is_said and all("folder default" in line for line in said)


def test_a_stage_that_never_came_agrees_with_none() -> None:
    by_stage: dict[Stage, list[Result]] = {
        "one_shot": results("one_shot", {0: 0.1, 1: 0.2, 2: 0.3}),
        "short": [],
        "full": results("full", {0: 0.4, 1: 0.5, 2: 0.6}),
    }
    found = gathered("accuracy", by_stage, best=results("full", {2: 0.6}), default=[], phases={})
    assert [(entry.cheaper, entry.dearer) for entry in found.agreements] == [("one_shot", "full")]
