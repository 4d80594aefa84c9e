"""Greedy selection against an independent slow implementation, and the cross-fitted gain against its definition."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from nas.search.ensemble import (
    STEPS,
    Array,
    EnsembleLimits,
    Rows,
    Score,
    ScoreFunction,
    best_single,
    cross_fitted_gain,
    select_members,
    weighted_mean,
    why_no_ensemble,
)

EVERY = EnsembleLimits(members=99)


def accuracy(labels: NDArray[np.int64]) -> ScoreFunction:
    def score(probabilities: Array, rows: Rows) -> Score:
        truth = labels[rows]
        loss = -np.log(probabilities[np.arange(len(rows)), truth]).mean()
        return float((probabilities.argmax(1) == truth).mean()), -float(loss)

    return score


def balanced(labels: NDArray[np.int64]) -> ScoreFunction:
    def score(probabilities: Array, rows: Rows) -> Score:
        truth, hits = labels[rows], probabilities.argmax(1) == labels[rows]
        return float(np.mean([hits[truth == c].mean() for c in np.unique(truth)])), 0.0

    return score


def exact_match(labels: NDArray[np.int64]) -> ScoreFunction:
    """Return the fraction of samples with all labels right, for samples with several labels."""

    def score(probabilities: Array, rows: Rows) -> Score:
        truth = labels[rows]
        loss = -np.log(np.where(truth == 1, probabilities, 1 - probabilities)).mean()
        return float(((probabilities > 0.5) == truth).all(1).mean()), -float(loss)

    return score


def one_label(seed: int, count: int = 40, shares: tuple[float, ...] = (1 / 3, 1 / 3, 1 / 3)) -> tuple[Array, Rows]:
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, size=count, p=shares)
    logits = rng.normal(size=(4, count, 3)) + 1.5 * np.eye(3)[labels]
    odds = np.exp(logits)
    return odds / odds.sum(2, keepdims=True), labels


def several_labels(seed: int) -> tuple[Array, Rows]:
    rng = np.random.default_rng(seed)
    labels = (rng.random((40, 3)) < 0.3).astype(np.int64)
    return 1 / (1 + np.exp(-rng.normal(size=(4, 40, 3)) - 2 * (2 * labels - 1))), labels


CASES: dict[str, tuple[Callable[[int], tuple[Array, Rows]], Callable[[Rows], ScoreFunction]]] = {
    "one label": (one_label, accuracy),
    "several labels": (several_labels, exact_match),
    "unbalanced classes": (lambda seed: one_label(seed, 60, (0.85, 0.1, 0.05)), balanced),
}


def without_last_bits(score: ScoreFunction) -> ScoreFunction:
    """Round scores: sums in another order differ in the last bits, which must not decide between equal ensembles."""

    def rounded(probabilities: Array, rows: Rows) -> Score:
        first, second = score(probabilities, rows)
        return round(first, 10), round(second, 10)

    return rounded


def slow_selection(probabilities: Array, score: ScoreFunction, members: int) -> dict[int, float]:
    """Return the weights by the definition: bags of models as lists, whose means are computed anew."""
    rows = np.arange(probabilities.shape[1])

    def value(bag: list[int]) -> Score:
        return score(np.mean([probabilities[index] for index in bag], axis=0), rows)

    bags: list[list[int]] = []
    for _ in range(STEPS):
        grown = [[*(bags[-1] if bags else []), index] for index in range(len(probabilities))]
        bags.append(max((bag for bag in grown if len(set(bag)) <= members), key=value))
    best = max(bags, key=value)
    return {index: best.count(index) / len(best) for index in set(best)}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("members", [1, 2, 4])
def test_selection_equals_the_slow_definition(case: str, members: int) -> None:
    make, measure = CASES[case]
    for seed in range(8):
        probabilities, labels = make(seed)
        rows = np.arange(len(labels))
        rounded = without_last_bits(measure(labels))
        found = select_members(probabilities, rows, rounded, EnsembleLimits(members))
        assert found == pytest.approx(slow_selection(probabilities, rounded, members))
        assert sum(found.values()) == pytest.approx(1) and len(found) <= members
        single = best_single(probabilities, rows, rounded, EVERY)
        assert single is not None
        mean = weighted_mean(probabilities, found, rows)
        assert rounded(mean, rows) >= rounded(probabilities[single], rows)


def complementary(count: int, share: float) -> tuple[Array, Rows]:
    """Return two models, each sure where it is right and unsure where it is wrong: the first on a share of samples."""
    labels = np.arange(count) % 2
    is_first = (np.random.default_rng(0).permutation(count) < share * count)[:, None]
    right, wrong = 0.1 + 0.8 * np.eye(2)[labels], 0.55 - 0.1 * np.eye(2)[labels]
    return np.stack([np.where(is_first, right, wrong), np.where(is_first, wrong, right)]), labels


def test_gain_and_its_standard_error_are_those_of_the_paired_differences() -> None:
    probabilities, labels = complementary(400, 0.7)
    rows = np.arange(400)

    def score(probabilities: Array, rows: Rows) -> Score:
        return accuracy(labels)(probabilities, rows)[0], 0.0

    assert select_members(probabilities, rows, score, EVERY) == {0: 0.5, 1: 0.5}
    # In every fold the first model is the best single one, and the mean of both is always right.
    gain = cross_fitted_gain(probabilities, score, EVERY, strata=labels, groups=rows, seed=0)
    assert gain.mean == pytest.approx(0.3)
    assert gain.standard_error == pytest.approx(math.sqrt(0.3 * 0.7 / 400), rel=0.15)
    assert gain.lower == pytest.approx(gain.mean - 1.6449 * gain.standard_error)


def test_coarse_objective_is_decided_by_the_cross_entropy() -> None:
    labels = np.zeros(50, dtype=np.int64)
    probabilities = np.stack([np.tile([[share, 1 - share]], (50, 1)) for share in (0.6, 0.9, 0.8)])
    assert select_members(probabilities, np.arange(50), accuracy(labels), EVERY) == {1: 1.0}


def test_members_are_those_that_the_limits_allow() -> None:
    probabilities, labels = one_label(3)
    rows, score = np.arange(len(labels)), accuracy(labels)
    free = select_members(probabilities, rows, score, EVERY)
    assert len(free) > 1
    costs = [5, 1, 1, 1]
    limits = EnsembleLimits(4, lambda chosen: sum(costs[index] for index in chosen) <= 2)
    bound = select_members(probabilities, rows, score, limits)
    assert 0 not in bound and len(bound) <= 2
    nothing = EnsembleLimits(4, lambda chosen: False)
    assert select_members(probabilities, rows, score, nothing) == {}
    assert best_single(probabilities, rows, score, nothing) is None


def test_equal_models_have_no_gain() -> None:
    probabilities, labels = one_label(0, 60)
    same = np.repeat(probabilities[:1], 3, axis=0)
    gain = cross_fitted_gain(same, accuracy(labels), EVERY, strata=labels, groups=np.arange(60), seed=1)
    assert (gain.mean, gain.standard_error, gain.lower) == (0, 0, 0)


def test_gain_is_not_that_of_fitting_noise() -> None:
    """Among models that guess, the score on the samples of the choice is high; the cross-fitted gain averages zero."""
    gains, fitted = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        labels = rng.integers(2, size=60)
        probabilities = rng.dirichlet([1, 1], size=(6, 60))
        score, rows = accuracy(labels), np.arange(60)
        chosen = weighted_mean(probabilities, select_members(probabilities, rows, score, EVERY), rows)
        fitted.append(score(chosen, rows)[0] - 0.5)
        gains.append(cross_fitted_gain(probabilities, score, EVERY, strata=labels, groups=rows, seed=seed).mean)
    assert np.mean(fitted) > 0.1
    assert abs(np.mean(gains)) < 3 * np.std(gains) / math.sqrt(len(gains))


def test_samples_of_one_picture_stay_together() -> None:
    """Twice the same samples are no more evidence than once."""
    probabilities, labels = one_label(5, 60)
    score = accuracy(labels)
    once = cross_fitted_gain(probabilities, score, EVERY, strata=labels, groups=np.arange(60), seed=2)
    doubled, twice = np.concatenate([probabilities, probabilities], axis=1), np.concatenate([labels, labels])
    groups = np.concatenate([np.arange(60), np.arange(60)])
    again = cross_fitted_gain(doubled, accuracy(twice), EVERY, strata=twice, groups=groups, seed=2)
    assert again.mean == pytest.approx(once.mean) and again.standard_error == pytest.approx(once.standard_error)


def test_validation_that_cannot_choose_is_named() -> None:
    names = ["a", "b", "c"]
    assert why_no_ensemble(np.arange(60) % 3, names) is None
    assert why_no_ensemble(np.arange(49) % 3, names) == (
        "validation has 49 samples, and choosing members takes at least 50"
    )
    assert why_no_ensemble(np.arange(60) % 2, names) == "validation has no sample of the class 'c'"
    several = np.zeros((60, 3))
    several[:, :2] = 1
    assert why_no_ensemble(several, names) == "validation has no sample of the class 'c'"
    several[0, 2] = 1
    assert why_no_ensemble(several, names) is None
