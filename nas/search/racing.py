"""Race models that were trained with several seeds, until the best is separated from the others.

The scores of two models differ by the luck of their seeds and by the luck of the validation samples, which all models
share. A test over seeds alone would find the best for these samples, one over samples alone the best for these seeds;
both are random here, crossed, as in the analysis of several readers of the same cases (Obuchowski and Rockette,
Communications in Statistics 24, 1995; degrees of freedom of Hillis, Statistics in Medicine 26, 2007): seeds are the
readers, samples the cases. Every seed belongs to one model.

After each round of seeds the models are compared. The error over all rounds and all pairs is kept: every round spends
its part of the level (Lan and DeMets, Biometrika 70, 1983, with the spending function of O'Brien and Fleming; the parts
are added, because rounds that share samples do not have the independent increments of the sequential theory), and
within a round Holm's procedure (Scandinavian Journal of Statistics 6, 1979) goes through the pairs that are not
separated yet. The lower end of a pair's interval is the highest of all rounds (repeated confidence intervals, Jennison
and Turnbull, Journal of the Royal Statistical Society B 51, 1989). `benchmarks/racing_error.py` measures the error.
"""

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtr, stdtrit

LEVEL = 0.05
"""The probability of separating any two equal models in a whole race; intervals have a confidence of 1 minus this."""

_ROUNDING = 1e-12

Floats = NDArray[np.float64]
Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class SeedScores:
    """The scores of one model with several seeds, and how they depend on the validation samples.

    Args:
        values: The score of each seed on all samples, higher is better, (seeds,).
        effects: One row per seed, (seeds, L). The product of two rows, of one or two models, estimates the covariance
            of the two scores over draws of the samples; L is the same for all models of a race.
        has_luck: Whether another seed would give another model; False for one that has no random part.
    """

    values: Floats
    effects: Floats
    has_luck: bool = True

    def first(self, count: int) -> "SeedScores":
        """Return the scores of the first seeds."""
        return SeedScores(self.values[:count], self.effects[:count], self.has_luck)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return float(self.values.mean())


def scores_of_samples(
    per_sample: Floats, *, groups: NDArray[np.int64] | None = None, has_luck: bool = True
) -> SeedScores:
    """Return the scores of a metric that is a mean over samples, with exact covariances.

    Args:
        per_sample: The score of every sample, (seeds, samples); for accuracy 1 where the prediction is correct.
        groups: The group of every sample, from 0, (samples,): samples of one group, as all questions about a picture,
            are drawn together. None if every sample is drawn by itself.
        has_luck: See `SeedScores`.

    Raises:
        ValueError: If there are fewer than two samples or groups.
    """
    samples = per_sample.shape[1]
    values = per_sample.mean(axis=1)
    deviations = (per_sample - values[:, None]) / samples
    if groups is not None:
        count = int(groups.max(initial=-1)) + 1
        deviations = np.stack([np.bincount(groups, weights=row, minlength=count) for row in deviations])
    drawn = deviations.shape[1]
    if drawn < 2:
        raise ValueError(f"validation: expected at least 2 samples, got {drawn}")
    return SeedScores(values, deviations * math.sqrt(drawn / (drawn - 1)), has_luck)


def scores_of_draws(values: Floats, drawn: Floats, *, has_luck: bool = True) -> SeedScores:
    """Return the scores of any metric, with covariances from bootstrap draws of the samples.

    Args:
        values: The score of each seed on all samples, (seeds,).
        drawn: The score of each seed on each draw of the samples, (seeds, draws); all models have the same draws.
        has_luck: See `SeedScores`.

    Raises:
        ValueError: If there are fewer than two draws.
    """
    count = drawn.shape[1]
    if count < 2:
        raise ValueError(f"draws of the samples: expected at least 2, got {count}")
    return SeedScores(values, (drawn - drawn.mean(axis=1, keepdims=True)) / math.sqrt(count - 1), has_luck)


@dataclass(frozen=True)
class SeedVariances:
    """The variance between the seeds of each model of a race.

    The models share all but a few choices, so that their variances are alike and pooled; that of a model that varies
    more than the pool is its own.

    Args:
        observed: The variance of the score of one seed on the same samples, (models,); 0 for a model without luck.
        between: The part of it that more samples would not remove, (models,).
        freedom: The degrees of freedom of the pool; 0 if no model has two seeds.
    """

    observed: Floats
    between: Floats
    freedom: int

    @classmethod
    def of(cls, models: Sequence[SeedScores]) -> "SeedVariances":
        """Estimate them from the scores of all models."""
        lucky = np.array([scores.has_luck for scores in models])
        freedoms = np.array([len(scores) - 1 for scores in models]) * lucky
        freedom = int(freedoms.sum())
        if freedom == 0:
            return cls(np.where(lucky, np.inf, 0.0), np.where(lucky, np.inf, 0.0), 0)
        squares = np.array([float(((scores.values - scores.values.mean()) ** 2).sum()) for scores in models])
        # Seeds differ on the same samples by chance, too, as far as they are right on different ones.
        crossed = np.array([float(((scores.effects - scores.effects.mean(axis=0)) ** 2).sum()) for scores in models])
        own = squares / np.maximum(freedoms, 1)
        observed = np.maximum(own, squares @ lucky / freedom) * lucky
        between = np.maximum(observed - crossed @ lucky / freedom, 0.0) * lucky
        return cls(observed, between, freedom)


@dataclass(frozen=True)
class Differences:
    """The differences between the mean scores of pairs of models, (pairs,) each.

    Args:
        values: The differences.
        errors: Their standard errors over draws of seeds and samples.
        freedom: The degrees of freedom of the errors.
    """

    values: Floats
    errors: Floats
    freedom: Floats

    @classmethod
    def between(
        cls, models: Sequence[SeedScores], firsts: NDArray[np.int64], seconds: NDArray[np.int64]
    ) -> "Differences":
        """Compare pairs of models.

        Args:
            models: The scores of all models, at least one with two seeds.
            firsts: The place of the first model of each pair.
            seconds: The place of the second one.
        """
        spread = SeedVariances.of(models)
        counts = np.array([len(scores) for scores in models])
        means = np.array([scores.mean for scores in models])
        effects = np.stack([scores.effects.mean(axis=0) for scores in models])
        gram = effects @ effects.T
        samples = np.maximum(gram[firsts, firsts] + gram[seconds, seconds] - 2 * gram[firsts, seconds], 0.0)
        between, observed = (
            (variances / counts)[firsts] + (variances / counts)[seconds]
            for variances in (spread.between, spread.observed)
        )
        variance = samples + between
        # Satterthwaite's; the variance over seeds is known from few of them, the one over samples from many.
        noise = observed**2 / max(spread.freedom, 1) + samples**2 / (effects.shape[1] - 1)
        freedom = np.divide(variance**2, noise, out=np.ones_like(noise), where=noise > 0)
        # Models that differ on all samples alike, or on none, say nothing about other samples.
        errors = np.where(samples > 0, np.sqrt(variance), np.inf)
        return cls(means[firsts] - means[seconds], errors, np.maximum(freedom, 1.0))

    @property
    def p_values(self) -> Floats:
        """The two-sided p-value of each difference."""
        return np.asarray(2 * stdtr(self.freedom, -np.abs(self.values) / self.errors))

    def half_widths(self, levels: Floats) -> Floats:
        """Return half the width of the intervals that miss with the given probabilities."""
        return np.asarray(-self.errors * stdtrit(self.freedom, levels / 2))


@dataclass(frozen=True)
class Standing(Generic[Name]):
    """The standing of a race.

    Args:
        ranked: All models by their mean score, best first; those still in the race before those that are not.
        racing: The models that no other is separated from.
        wanted: The models whose next seed completes the round; empty if the race has ended.
        lower_ends: For each ordered pair, the lower end of the 95 % interval of the first mean minus the second; minus
            infinity before the first comparison. The first is better beyond chance where this is positive.
        looks: The number of comparisons so far.
    """

    ranked: tuple[Name, ...]
    racing: tuple[Name, ...]
    wanted: tuple[Name, ...]
    lower_ends: Mapping[tuple[Name, Name], float]
    looks: int

    @property
    def best(self) -> Name:
        """The model with the highest mean of those in the race."""
        return self.ranked[0]


class Race(Generic[Name]):
    """A race in rounds: a round is one further seed for each model that is still in the race.

    The standing is a function of the scores, in the order of the seeds. It therefore needs no storage of its own.

    Args:
        max_seeds: The largest number of seeds of a model, the one that it enters the race with included.
        level: The probability of separating any two equal models.
    """

    def __init__(self, max_seeds: int, level: float = LEVEL) -> None:
        self._max_seeds = max_seeds
        self._level = level

    def standing(
        self, field: Mapping[Name, SeedScores], *, withdrawn: Collection[Name] = (), is_over: bool = False
    ) -> Standing[Name]:
        """Return the standing after all comparisons for which there are scores.

        Args:
            field: The scores of every model with at least one seed each.
            withdrawn: The models that cannot have further seeds, because a training failed or does not fit.
            is_over: Whether there is no time for further seeds; the last comparison then uses all scores, those of an
                incomplete round included, and the rest of the level.

        Raises:
            ValueError: If a model has no score.
        """
        for name, scores in field.items():
            if not len(scores):
                raise ValueError(f"{name}: expected the score of at least one seed, got none")
        pairs = _Pairs(list(field))
        fixed = {name for name, scores in field.items() if not scores.has_luck} | set(withdrawn)
        spent = 0.0
        for count in range(2, self._max_seeds + 1):
            racing = pairs.racing()
            runners = [name for name in racing if name not in fixed]
            if len(racing) < 2 or not runners or any(len(field[name]) < count for name in runners):
                break
            level = self._spent(count)
            pairs.compare([scores.first(count) for scores in field.values()], level - spent)
            spent = level
        racing = pairs.racing()
        rest = self._level - spent
        if is_over and len(racing) > 1 and rest > _ROUNDING and _has_repeats(field):
            pairs.compare(list(field.values()), rest)
        return self._result(field, pairs, fixed, is_over=is_over)

    def _result(
        self, field: Mapping[Name, SeedScores], pairs: "_Pairs[Name]", fixed: Collection[Name], *, is_over: bool
    ) -> Standing[Name]:
        racing = pairs.racing()
        # Of equal means the earlier model of the field is first.
        ranked = sorted(field, key=lambda name: (name not in racing, -field[name].mean))
        wanted: list[Name] = []
        if not is_over and len(racing) > 1:
            runners = [name for name in ranked if name in racing and name not in fixed]
            fewest = min((len(field[name]) for name in runners), default=self._max_seeds)
            if fewest < self._max_seeds:
                wanted = [name for name in runners if len(field[name]) == fewest]
        return Standing(tuple(ranked), tuple(racing), tuple(wanted), pairs.lower_ends(), pairs.looks)

    def _spent(self, count: int) -> float:
        """Return the part of the level that is spent when models have some number of seeds."""
        return float(2 * ndtr(ndtri(self._level / 2) / math.sqrt(count / self._max_seeds)))


def _has_repeats(field: Mapping[Name, SeedScores]) -> bool:
    return any(len(scores) > 1 for scores in field.values() if scores.has_luck)


class _Pairs(Generic[Name]):
    """All pairs of a race, and the lower ends of both differences of each.

    Args:
        names: The models, at least one.
    """

    def __init__(self, names: Sequence[Name]) -> None:
        self._names = names
        first, second = np.triu_indices(len(names), 1)
        self._firsts, self._seconds = first.astype(np.int64), second.astype(np.int64)
        self._lower = np.full((2, len(first)), -np.inf)
        self._is_racing = np.ones(len(names), bool)
        self.looks = 0

    def compare(self, models: Sequence[SeedScores], level: float) -> None:
        """Compare all pairs that are not separated, by Holm's procedure.

        Args:
            models: The scores of all models.
            level: The probability of separating any two equal ones.
        """
        open_pairs = np.flatnonzero(~(self._lower > 0).any(axis=0))
        found = Differences.between(models, self._firsts[open_pairs], self._seconds[open_pairs])
        order = np.argsort(found.p_values, kind="stable")
        levels = level / np.arange(len(order), 0, -1)
        refused = np.flatnonzero(found.p_values[order] > levels)
        if len(refused):
            levels[refused[0] :] = levels[refused[0]]
        half = np.empty(len(order))
        half[order] = levels
        half = found.half_widths(half)
        ends = np.stack([found.values, -found.values]) - half
        self._lower[:, open_pairs] = np.maximum(self._lower[:, open_pairs], ends)
        self.looks += 1
        # Only models of the race put others out: the first of a round stays, and with it at least one model.
        beaten = [
            losers[(lower > 0) & self._is_racing[winners]]
            for lower, winners, losers in zip(
                self._lower, (self._firsts, self._seconds), (self._seconds, self._firsts), strict=True
            )
        ]
        self._is_racing[np.concatenate(beaten)] = False

    def racing(self) -> list[Name]:
        """Return the models that no other of the race was separated from, in the order of the field."""
        return [name for name, is_racing in zip(self._names, self._is_racing, strict=True) if is_racing]

    def lower_ends(self) -> dict[tuple[Name, Name], float]:
        """Return the lower end of the difference of each ordered pair."""
        found: dict[tuple[Name, Name], float] = {}
        places = zip(self._firsts.tolist(), self._seconds.tolist(), self._lower.T.tolist(), strict=True)
        for first, second, (low, reverse) in places:
            found[self._names[first], self._names[second]] = low
            found[self._names[second], self._names[first]] = reverse
        return found
