"""Racing models that were trained with several seeds."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import norm, t

from nas.search.racing import Differences, Floats, Race, SeedScores, scores_of_draws, scores_of_samples


def correct(
    seeds: int, samples: int, accuracy: float, rng: np.random.Generator, difficulty: Floats | None = None
) -> Floats:
    """Draw the predictions of one model that are correct, on samples of a given difficulty."""
    shared = np.zeros(samples) if difficulty is None else difficulty
    latent = norm.ppf(accuracy) + rng.normal(0, 0.1, (seeds, 1)) + shared + rng.normal(0, 0.5, (seeds, samples))
    found: Floats = (latent > 0).astype(np.float64)
    return found


def field_of(accuracies: Sequence[float], *, seeds: int = 3, samples: int = 200) -> dict[str, SeedScores]:
    rng = np.random.default_rng(0)
    difficulty = rng.normal(0, 0.8, samples)
    return {
        f"model {place}": scores_of_samples(correct(seeds, samples, accuracy, rng, difficulty))
        for place, accuracy in enumerate(accuracies)
    }


def covariance(first: Floats, second: Floats) -> float:
    """Return the covariance of two mean scores over draws of the samples."""
    return float(np.cov(first, second)[0, 1] / len(first))


def slow_lower_end(first: Floats, second: Floats, level: float) -> float:
    """Return the lower end of two models' difference in the form of Obuchowski and Rockette, term by term.

    The variance between seeds of each model, on the same samples, and the covariances of different seeds over samples.
    """
    models = (first, second)
    own = [np.var(model.mean(axis=1), ddof=1) for model in models]
    pooled = float(np.average(own, weights=[len(model) - 1 for model in models]))
    seeds = sum(max(float(value), pooled) / len(model) for value, model in zip(own, models, strict=True))
    samples = covariance(first.mean(axis=0), first.mean(axis=0)) + covariance(second.mean(axis=0), second.mean(axis=0))
    samples -= 2 * float(np.mean([covariance(one, other) for one in first for other in second]))
    errors = [np.mean([covariance(row, row) for row in model]) for model in models]
    pairs = [[covariance(*pair) for pair in itertools.combinations(model, 2)] for model in models]
    crossed = float(np.mean([error - np.mean(pair) for error, pair in zip(errors, pairs, strict=True)]))
    variance = samples + seeds - sum(crossed / len(model) for model in models)
    freedom = variance**2 / (seeds**2 / sum(len(model) - 1 for model in models) + samples**2 / (first.shape[1] - 1))
    return float(first.mean() - second.mean() - t.ppf(1 - level / 2, freedom) * variance**0.5)


def test_interval_has_the_variances_of_seeds_and_samples_crossed() -> None:
    rng = np.random.default_rng(1)
    difficulty = rng.normal(0, 1, 80)
    # One model varies more between its seeds than between seeds and samples by chance.
    first, second = (correct(3, 80, 0.8, rng, difficulty) for _ in range(2))
    second[0, :30] = 0
    field = {"first": scores_of_samples(first), "second": scores_of_samples(second)}
    standing = Race[str](3).standing(field, is_over=True)
    # The comparison after two seeds has its own interval; the higher lower end counts.
    spent = 2 - 2 * norm.cdf(norm.ppf(0.975) / (2 / 3) ** 0.5)
    expected = max(slow_lower_end(first[:2], second[:2], spent), slow_lower_end(first, second, 0.05 - spent))
    assert standing.lower_ends["first", "second"] == pytest.approx(expected)
    assert standing.looks == 2


def test_samples_of_one_group_count_as_one_draw() -> None:
    rng = np.random.default_rng(4)
    once = correct(2, 60, 0.8, rng)
    groups = np.repeat(np.arange(60), 3)
    # Three copies of every sample say no more than one.
    grouped = scores_of_samples(np.repeat(once, 3, axis=1), groups=groups)
    alone = scores_of_samples(once)
    assert grouped.values == pytest.approx(alone.values)
    assert grouped.effects == pytest.approx(alone.effects)


def test_draws_of_the_samples_give_nearly_the_exact_covariances() -> None:
    rng = np.random.default_rng(2)
    values = correct(2, 300, 0.8, rng)
    weights = rng.multinomial(300, np.full(300, 1 / 300), 4000)
    exact, drawn = scores_of_samples(values), scores_of_draws(values.mean(axis=1), values @ weights.T / 300)
    assert drawn.effects @ drawn.effects.T == pytest.approx(exact.effects @ exact.effects.T, abs=2e-5)
    assert drawn.values.tolist() == exact.values.tolist()


def test_holms_procedure_goes_through_the_pairs() -> None:
    field = field_of((0.93, 0.84, 0.76, 0.6), seeds=2)
    # With at most two seeds there is one comparison, at the whole level.
    standing = Race[str](2).standing(field)
    firsts, seconds = np.triu_indices(4, 1)
    p_values = Differences.between(list(field.values()), firsts, seconds).p_values
    expected = set()
    for place, pair in enumerate(np.argsort(p_values)):
        if p_values[pair] > 0.05 / (len(p_values) - place):
            break
        expected.add((f"model {firsts[pair]}", f"model {seconds[pair]}"))
    assert {pair for pair, low in standing.lower_ends.items() if low > 0} == expected
    assert 0 < len(expected) < len(p_values)
    bonferroni = {place for place in range(len(p_values)) if p_values[place] <= 0.05 / len(p_values)}
    assert len(bonferroni) < len(expected), "the procedure separates a pair that Bonferroni's would not"


def test_race_ends_when_the_best_is_separated_or_has_all_seeds() -> None:
    clear, close = field_of((0.97, 0.5), seeds=2), field_of((0.8, 0.8), seeds=2)
    race: Race[str] = Race(3)
    won = race.standing(field_of((0.97, 0.5), seeds=3))
    assert won.racing == ("model 0",) and won.wanted == () and won.best == "model 0"
    assert won.lower_ends["model 0", "model 1"] > 0 > won.lower_ends["model 1", "model 0"]
    assert set(race.standing(close).wanted) == {"model 0", "model 1"}
    assert race.standing(field_of((0.8, 0.8), seeds=3)).wanted == ()
    assert race.standing(close, is_over=True).wanted == ()
    assert race.standing(clear).looks == 1 and race.standing(clear).wanted == (), "the rest of the race is left out"
    assert race.standing(close).looks == 1
    assert race.standing(close, is_over=True).looks == 2, "the rest of the level is spent at the end"


def test_only_models_with_the_fewest_seeds_are_wanted() -> None:
    field = field_of((0.8, 0.8, 0.8), seeds=3)
    field["model 1"] = field["model 1"].first(2)
    standing = Race[str](4).standing(field)
    assert standing.wanted == ("model 1",)
    assert standing.looks == 1, "the round of the third seeds is not complete"
    assert set(Race[str](4).standing(field, withdrawn=["model 1"]).wanted) == {"model 0", "model 2"}


def test_model_that_is_out_gets_no_further_seed_and_keeps_its_scores() -> None:
    field = field_of((0.9, 0.9, 0.4), seeds=3)
    field["model 2"] = field["model 2"].first(2)
    standing = Race[str](4).standing(field)
    assert set(standing.racing) == {"model 0", "model 1"} == set(standing.wanted)
    assert standing.ranked[-1] == "model 2"


def test_model_without_luck_has_one_seed_and_no_variance_between_seeds() -> None:
    field = field_of((0.95, 0.95), seeds=2, samples=400)
    rng = np.random.default_rng(3)
    linear = correct(1, 400, 0.6, rng)
    field["linear"] = scores_of_samples(linear, has_luck=False)
    standing = Race[str](3).standing(field)
    assert "linear" not in standing.racing and "linear" not in standing.wanted
    # Its own mean has no part in the variance: half the interval is narrower than with luck.
    lucky = Race[str](3).standing({**field, "linear": scores_of_samples(linear)}, withdrawn=["linear"])
    assert standing.lower_ends["model 0", "linear"] > lucky.lower_ends["model 0", "linear"]


def test_one_seed_each_separates_nothing() -> None:
    standing = Race[str](4).standing(field_of((0.99, 0.3), seeds=1), is_over=True)
    assert standing.looks == 0 and set(standing.lower_ends.values()) == {-np.inf}
    assert standing.ranked == ("model 0", "model 1"), "the higher mean is still the best"


def test_single_model_has_won() -> None:
    standing = Race[str](4).standing(field_of((0.8,), seeds=1))
    assert (standing.best, standing.wanted) == ("model 0", ())


def test_models_with_equal_predictions_are_never_separated() -> None:
    ones = scores_of_samples(np.ones((3, 50)))
    zeros = scores_of_samples(np.zeros((3, 50)))
    assert set(Race[str](3).standing({"a": ones, "b": ones, "c": zeros}).racing) == {"a", "b", "c"}


def test_models_without_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="a: expected the score of at least one seed, got none"):
        Race[str](3).standing({"a": SeedScores(np.empty(0), np.empty((0, 5)))})
    with pytest.raises(ValueError, match="expected at least 2 samples, got 1"):
        scores_of_samples(np.ones((2, 1)))
    with pytest.raises(ValueError, match="expected at least 2, got 1"):
        scores_of_draws(np.ones(2), np.ones((2, 1)))


def test_equal_models_are_rarely_separated() -> None:
    separated = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        difficulty = rng.normal(0, 0.8, 150)
        field = {name: scores_of_samples(correct(3, 150, 0.8, rng, difficulty)) for name in "abcd"}
        separated += max(Race[str](3).standing(field).lower_ends.values()) > 0
    assert separated <= 18, "0.05 of 200 are 10; more than 18 have a probability of 0.005"
