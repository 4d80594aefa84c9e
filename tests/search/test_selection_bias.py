"""The expected score of a chosen model, corrected for its having been chosen."""

import math

import numpy as np
import pytest
from scipy.stats import t

from nas.search.racing import SeedScores, scores_of_samples
from nas.search.selection_bias import expected_score, held_out_mean


def independent(means: list[float], deviation: float, samples: int = 1000) -> dict[int, SeedScores]:
    """Return models without luck of seeds, whose means have independent errors with one standard deviation."""
    effects = np.zeros((len(means), samples))
    np.fill_diagonal(effects, deviation)
    return {
        place: SeedScores(np.array([mean]), effects[place : place + 1], has_luck=False)
        for place, mean in enumerate(means)
    }


def test_optimism_of_equal_models_is_the_mean_of_the_largest_of_normal_errors() -> None:
    # The expectation of the larger of two standard normal numbers is 1 / sqrt(pi), of three 3 / (2 sqrt(pi)).
    two = expected_score(independent([0.8, 0.8], 0.01), 0, samples=1000)
    three = expected_score(independent([0.8] * 3, 0.01), 0, samples=1000)
    assert two.optimism == pytest.approx(0.01 / math.sqrt(math.pi), rel=0.04)
    assert three.optimism == pytest.approx(0.015 / math.sqrt(math.pi), rel=0.04)
    assert two.value == 0.8 - two.optimism


def test_model_that_is_far_ahead_or_was_chosen_beforehand_is_hardly_corrected() -> None:
    ahead = expected_score(independent([0.9, 0.8], 0.01), 0, samples=1000)
    beforehand = expected_score(independent([0.8, 0.8], 0.01), 0, is_selected=False, samples=1000)
    assert abs(ahead.optimism) < 1e-3
    assert (beforehand.optimism, beforehand.value) == (0.0, 0.8)


def test_interval_includes_the_luck_of_seeds_samples_and_new_samples() -> None:
    rng = np.random.default_rng(0)
    rows = (rng.random((3, 400)) < 0.8).astype(np.float64)
    rows[0, :100] = 0  # one seed is worse, so that seeds vary
    scores = scores_of_samples(rows)
    found = expected_score({"only": scores}, "only", samples=400, new_samples=200, new_seeds=2)
    values = rows.mean(axis=1)
    crossed = sum(np.var(rows - rows.mean(axis=0), axis=1, ddof=1)) / 2 / 400
    seeds = (np.var(values, ddof=1) - crossed) * (1 / 3 + 1 / 2)
    samples = np.var(rows.mean(axis=0), ddof=1) * (1 / 400 + 1 / 200)
    observed = np.var(values, ddof=1) * (1 / 3 + 1 / 2)
    freedom = (seeds + samples) ** 2 / (observed**2 / 2 + samples**2 / 399)
    assert found.high - found.value == pytest.approx(t.ppf(0.95, freedom) * math.sqrt(seeds + samples))
    assert found.high - found.value == pytest.approx(found.value - found.low)


def test_interval_is_unbounded_where_variation_between_seeds_is_unknown() -> None:
    field = {name: scores_of_samples(np.array([[1.0, 0.0, 1.0, value]])) for name, value in (("a", 1.0), ("b", 0.0))}
    found = expected_score(field, "a", samples=4)
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert 0 < found.optimism < 0.75, "the luck of the samples is known nevertheless"


def test_every_seed_is_scored_for_the_model_that_the_other_seeds_prefer() -> None:
    def scores(*values: float) -> SeedScores:
        return SeedScores(np.array(values), np.zeros((len(values), 3)))

    field = {"lucky": scores(0.9, 0.5, 0.6), "steady": scores(0.69, 0.69, 0.69), "out of the race": scores(0.99)}
    # Without its first seed the lucky one has 0.55, without the second 0.75, without the third 0.7.
    assert held_out_mean(field) == pytest.approx((0.69 + 0.5 + 0.6) / 3)
    assert held_out_mean({"a": scores(0.9), "b": scores(0.8)}) is None
