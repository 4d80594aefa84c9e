"""Paired bootstrap intervals over searches and pictures.

Source: Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8.

A data set's pictures are drawn with replacement, each with all of its samples, and so are the searches, each with its
models. Both sides of a difference have the same pictures and, if they have the same seeds, the same draw of seeds;
otherwise each side has its own. With few seeds the intervals are too narrow: drawing n of n has (n - 1) / n of the
variance. Trainings within a search are not drawn: their noise is part of the differences between searches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.predictions import Counts

DRAWS = 5000
_CHUNK = 500

Models = Mapping[int, Counts]
"""The counts of a role's models by the seed of the search."""


@dataclass(frozen=True)
class Difference:
    """A difference of two metrics, its value and its bootstrap draws.

    Args:
        value: The difference of the means over seeds.
        draws: The difference in every draw, (draws,).
    """

    value: float
    draws: NDArray[np.float64]

    def interval(self) -> dict[str, float]:
        """Return mean, low and high: the value and the ends of its 95 % interval."""
        low, high = np.quantile(self.draws, [0.025, 0.975])
        return {"mean": self.value, "low": float(low), "high": float(high)}

    @classmethod
    def pooled(cls, differences: Sequence["Difference"]) -> "Difference":
        """Return the mean over data sets, which have equal weight and are drawn independently."""
        draws = np.mean([difference.draws for difference in differences], axis=0)
        return cls(float(np.mean([difference.value for difference in differences])), draws)


class Comparison:
    """Compares the models of one data set.

    Args:
        seed: The seed of the draws, another one for each data set.
        pictures: The number of pictures.
        draws: The number of draws.
    """

    def __init__(self, seed: int, pictures: int, draws: int = DRAWS) -> None:
        self._seed = seed
        rng = np.random.default_rng([seed, 0])
        self._weights = rng.multinomial(pictures, np.full(pictures, 1 / pictures), size=draws)

    def difference(self, first: Models, second: Models) -> Difference:
        """Return the mean metric of the first models minus that of the second.

        Args:
            first: The models of one role, at least one.
            second: The models of the other.
        """
        rng = np.random.default_rng([self._seed, 1])
        chosen = self._seeds(rng, len(first))
        other = chosen if sorted(first) == sorted(second) else self._seeds(rng, len(second))
        value = metrics(first).mean() - metrics(second).mean()
        return Difference(float(value), self._drawn(first, chosen) - self._drawn(second, other))

    def _seeds(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Return the places of the drawn seeds of every draw, (draws, count)."""
        return rng.integers(count, size=(len(self._weights), count))

    def _drawn(self, models: Models, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the mean metric of every draw, (draws,)."""
        parts = [
            metrics(models, self._weights[start : start + _CHUNK]) for start in range(0, len(self._weights), _CHUNK)
        ]
        drawn: NDArray[np.float64] = np.take_along_axis(np.concatenate(parts), chosen, axis=1).mean(axis=1)
        return drawn


def metrics(models: Models, weights: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
    """Return the metric of every model, in the order of the seeds.

    Args:
        models: The models.
        weights: How often each picture counts, (draws, pictures); None for once each.

    Returns:
        The metrics, (models,), or (draws, models).
    """
    stacked = np.stack([models[seed] for seed in sorted(models)])
    sums = stacked.sum(axis=2) if weights is None else np.moveaxis(stacked @ weights.T.astype(np.float64), 2, 0)
    ratios: NDArray[np.float64] = sums[..., 0] / np.maximum(sums[..., 1], 1.0)
    return ratios
