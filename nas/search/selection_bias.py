"""Estimate the score that the chosen model of a race will have on new samples, corrected for its having been chosen.

The highest of several noisy means is too high on average. The bias is estimated by the bootstrap (Efron, Journal of the
American Statistical Association 78, 1983; Harrell, Lee and Mark, Statistics in Medicine 15, 1996): the choice is
repeated on scores drawn around the observed ones, over seeds and samples, and the mean excess of the chosen model's
drawn score over its observed one is subtracted. The draws are normal, with the variances over seeds and samples by
which the race judges (`nas.search.racing`): a model has too few seeds to draw from them with replacement.
`benchmarks/selection_coverage.py` measures bias and coverage.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy.special import stdtrit

from nas.search.racing import Floats, SeedScores, SeedVariances

LEVEL = 0.1
"""The probability with which the interval misses."""

_DRAWS = 4_000

Name = TypeVar("Name")


@dataclass(frozen=True)
class ExpectedScore:
    """The score that a model is expected to have on new samples, higher is better.

    Args:
        value: The estimate.
        low: The lower end of its 90 % interval; minus infinity if the variance between seeds is unknown.
        high: The upper end.
        optimism: How much the mean of its seeds on validation is too high, because it chose the model.
    """

    value: float
    low: float
    high: float
    optimism: float


def expected_score(
    field: Mapping[Name, SeedScores],
    chosen: Name,
    *,
    is_selected: bool = True,
    new_samples: float = math.inf,
    new_seeds: float = math.inf,
    samples: int,
) -> ExpectedScore:
    """Estimate the mean score of a model over new seeds on new samples.

    Args:
        field: The scores of all models that could have been chosen.
        chosen: The chosen model.
        is_selected: Whether it was chosen by its scores; False for one that was chosen beforehand.
        new_samples: The number of new samples, whose luck the interval includes.
        new_seeds: The number of new seeds, whose luck the interval includes.
        samples: The number of validation samples of the scores.
    """
    models = list(field.values())
    place = list(field).index(chosen)
    variances = SeedVariances.of(models)
    counts = np.array([len(scores) for scores in models])
    means = np.array([scores.mean for scores in models])
    effects = np.stack([scores.effects.mean(axis=0) for scores in models])
    is_known = variances.freedom > 0 or not models[place].has_luck
    between = variances.between if variances.freedom > 0 else np.zeros(len(models))
    optimism = _optimism(means, effects, between / counts) if is_selected else 0.0
    value = float(means[place] - optimism)
    over_samples = float(effects[place] @ effects[place]) * (1 + samples / new_samples)
    over_seeds = float(between[place]) * (1 / counts[place] + 1 / new_seeds)
    variance = over_samples + over_seeds
    if not is_known:
        return ExpectedScore(value, -math.inf, math.inf, optimism)
    observed = float(variances.observed[place]) * (1 / counts[place] + 1 / new_seeds)
    noise = observed**2 / max(variances.freedom, 1) + over_samples**2 / (effects.shape[1] - 1)
    freedom = max(variance**2 / noise, 1.0) if noise > 0 else 1.0
    half = -float(stdtrit(freedom, LEVEL / 2)) * math.sqrt(variance)
    return ExpectedScore(value, value - half, value + half, optimism)


def held_out_mean(field: Mapping[Name, SeedScores]) -> float | None:
    """Return the mean score of seeds that did not choose their model.

    Every seed is scored for the model that has the highest mean over the other seeds, as in cross-validation.

    Args:
        field: The scores of all models that could have been chosen. Models with fewer seeds than others are out of the
            race, and left out.

    Returns:
        The mean; None if no model has two seeds.
    """
    count = max(len(scores) for scores in field.values())
    if count < 2:
        return None
    values = np.stack([scores.values for scores in field.values() if len(scores) == count])
    others = values.sum(axis=1, keepdims=True) - values
    return float(values[others.argmax(axis=0), np.arange(count)].mean())


def _optimism(means: Floats, effects: Floats, over_seeds: Floats) -> float:
    """Return the mean excess of the highest of drawn means over the observed mean of the same model.

    Args:
        means: The observed means, (models,).
        effects: The effects of samples on each mean, (models, L).
        over_seeds: The variance of each mean over seeds, (models,).
    """
    rng = np.random.default_rng(0)
    covariance = effects @ effects.T + np.diag(over_seeds)
    values, vectors = np.linalg.eigh(covariance)
    noise = rng.standard_normal((_DRAWS // 2, len(means))) @ (vectors * np.sqrt(np.maximum(values, 0.0))).T
    excess = [drawn[np.arange(len(drawn)), (means + drawn).argmax(axis=1)].mean() for drawn in (noise, -noise)]
    return float(np.mean(excess))
