"""Choose the members of an ensemble: greedy selection with replacement, and its cross-fitted gain. Imports no torch.

Source: Caruana, Niculescu-Mizil, Crew, Ksikes, "Ensemble Selection from Libraries of Models", ICML 2004. The ensemble
is the weighted mean of the members' probabilities. Each step adds the model that makes the mean best on validation; one
that is added again gets a larger weight.

The guard against fitting validation is cross-fitting, not the paper's bagging. Bagging makes the choice itself steadier
in libraries of thousands of models, but the score of its choice on the same samples remains too high, and it mixes in
more members than may be exported. A search has a dozen models, whose choice needs no smoothing; whether to use the
ensemble at all needs an unbiased figure. So for each fold of validation, both the ensemble and the best single model
are chosen on the other folds and compared on that fold. The gain is that of the procedure; the ensemble itself is then
chosen on all samples.

Shapes: K models, N samples, C classes.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Rows = NDArray[np.int64]

Score = tuple[float, float]
"""The score by the objective, higher is better, and one that breaks its ties: the objective may be coarse."""

ScoreFunction = Callable[[Array, Rows], Score]
"""Returns the score of the probabilities (n, C) of the samples with the given indices, (n,)."""

MIN_SAMPLES = 50
"""The smallest number of validation samples from which an ensemble is chosen."""

STEPS = 20
"""The number of greedy steps: weights are multiples of the inverse of at most this number."""

_FOLDS = 5
_DRAWS = 200
_ONE_SIDED_95 = 1.6449
"""The 95 % quantile of the normal distribution."""


@dataclass(frozen=True)
class EnsembleLimits:
    """What an ensemble may consist of.

    Args:
        members: The largest number of distinct members.
        allows: Function that returns whether models, given by their indices, may be the members; it must allow every
            part of a set that it allows.
    """

    members: int
    allows: Callable[[frozenset[int]], bool] = lambda chosen: True

    def may_be(self, chosen: frozenset[int]) -> bool:
        """Return whether models may be the members."""
        return len(chosen) <= self.members and self.allows(chosen)


@dataclass(frozen=True)
class Gain:
    """The cross-fitted difference between the score of the ensemble and that of the best single model.

    Args:
        mean: The difference.
        standard_error: Its standard error, by a paired bootstrap over validation samples.
    """

    mean: float
    standard_error: float

    @property
    def lower(self) -> float:
        """The lower end of the one-sided 95 % interval."""
        return self.mean - _ONE_SIDED_95 * self.standard_error


def why_no_ensemble(labels: NDArray[np.generic], class_names: Sequence[str]) -> str | None:
    """Return why validation samples cannot choose an ensemble, as a clause; None if they can.

    Args:
        labels: Class indices, (N,), or 1 for each label of a sample, (N, C).
        class_names: The names of the classes.
    """
    if len(labels) < MIN_SAMPLES:
        return f"validation has {len(labels)} samples, and choosing members takes at least {MIN_SAMPLES}"
    counts = np.bincount(labels.astype(np.int64), minlength=len(class_names)) if labels.ndim == 1 else labels.sum(0)
    missing = [name for name, count in zip(class_names, counts, strict=True) if not count]
    return f"validation has no sample of the class {missing[0]!r}" if missing else None


def select_members(probabilities: Array, rows: Rows, score: ScoreFunction, limits: EnsembleLimits) -> dict[int, float]:
    """Return the weights of the members by the index of the model; they add up to 1.

    The best of the ensembles after each step is returned, the earliest of equal ones. Of equal models the first is
    added.

    Args:
        probabilities: The probabilities of each model, (K, N, C).
        rows: The indices of the samples to select on, (n,).
        score: The score of probabilities.
        limits: What the ensemble may consist of; empty weights are returned if it may be no model.
    """
    parts = probabilities[:, rows]
    total = np.zeros(parts.shape[1:])
    counts: Counter[int] = Counter()
    best: tuple[Score, Counter[int]] | None = None
    for step in range(1, STEPS + 1):
        candidates = [index for index in range(len(parts)) if limits.may_be(frozenset(counts) | {index})]
        if not candidates:
            break
        found, place = max((score((total + parts[index]) / step, rows), -index) for index in candidates)
        total += parts[-place]
        counts[-place] += 1
        if best is None or found > best[0]:
            best = found, counts.copy()
    if best is None:
        return {}
    return {index: count / best[1].total() for index, count in best[1].items()}


def best_single(probabilities: Array, rows: Rows, score: ScoreFunction, limits: EnsembleLimits) -> int | None:
    """Return the index of the model with the highest score, the first of equal ones; None if no model is allowed.

    Args:
        probabilities: The probabilities of each model, (K, N, C).
        rows: The indices of the samples, (n,).
        score: The score of probabilities.
        limits: The limits of an ensemble, which a single model must meet as well.
    """
    allowed = [index for index in range(len(probabilities)) if limits.may_be(frozenset({index}))]
    return max(allowed, key=lambda index: (score(probabilities[index, rows], rows), -index), default=None)


def weighted_mean(probabilities: Array, weights: Mapping[int, float], rows: Rows) -> Array:
    """Return the probabilities of an ensemble, (n, C).

    Args:
        probabilities: The probabilities of each model, (K, N, C).
        weights: The weights of the members by the index of the model.
        rows: The indices of the samples, (n,).
    """
    return sum((weight * probabilities[index, rows] for index, weight in weights.items()), np.zeros(()))


def cross_fitted_gain(
    probabilities: Array,
    score: ScoreFunction,
    limits: EnsembleLimits,
    *,
    strata: NDArray[np.int64],
    groups: NDArray[np.int64],
    seed: int,
) -> Gain:
    """Return the gain of an ensemble over the best single model on samples that chose neither.

    The standard error is that of new samples of the same size, drawn by groups; it does not know about other seeds of
    the trainings.

    Args:
        probabilities: The probabilities of each model, (K, N, C).
        score: The score of probabilities.
        limits: What the ensemble may consist of; at least one model.
        strata: A class of each sample, (N,), of which each fold gets an equal share.
        groups: The group of each sample, (N,): samples with the same picture are not independent and stay together.
        seed: The seed of the folds and of the bootstrap.
    """
    generator = np.random.default_rng(seed)
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    folds = _folds(members, strata, generator)
    ensemble, single = np.empty_like(probabilities[0]), np.empty_like(probabilities[0])
    for fold in np.unique(folds):
        inside, outside = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        ensemble[outside] = weighted_mean(probabilities, select_members(probabilities, inside, score, limits), outside)
        single[outside] = probabilities[best_single(probabilities, inside, score, limits), outside]

    def gain(rows: Rows) -> float:
        return score(ensemble[rows], rows)[0] - score(single[rows], rows)[0]

    draws = [
        gain(np.concatenate([members[place] for place in generator.integers(len(members), size=len(members))]))
        for _ in range(_DRAWS)
    ]
    return Gain(gain(np.arange(len(groups))), float(np.std(draws, ddof=1)))


def _folds(members: Sequence[Rows], strata: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Return the fold of each sample: groups are shuffled, ordered by the class of their first sample, and dealt."""
    folds = np.empty(len(strata), dtype=np.int64)
    order = generator.permutation(len(members))
    for place, index in enumerate(sorted(order, key=lambda index: int(strata[members[index][0]]))):
        folds[members[index]] = place % _FOLDS
    return folds
