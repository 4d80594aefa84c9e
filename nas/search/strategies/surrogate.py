"""A response surface: a Bayesian linear model of what architectures come to, from all that was told.

Genes are ordinal and few, so effects of single values, trends and products of two trends say most of what there is to
say, from a dozen scores on. Weights have independent normal priors; how much of the variance is signal is chosen by the
evidence (MacKay, Neural Computation 1992). All that is kept of the past is sums, so a thousand scores cost no more than
ten.
"""

import itertools
import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from nas.search.pareto import Values
from nas.search.space import Architecture, SearchSpace

_SHARES = (0.35, 0.35, 0.3)
"""Of the signal's variance before anything is known: single values, trends, products of trends."""
_SIGNALS = (0.1, 0.3, 0.5, 0.7, 0.85, 0.95)
"""Shares of the variance that may be signal; the rest is noise."""

Array = NDArray[np.float64]

# Workers keep all cores busy. Threads that wait for cores would make these small matrices a hundred times slower.
_one_thread = cache(ThreadpoolController)


class BayesianLinearSurrogate:
    """Draws what architectures may come to.

    Args:
        space: Theirs.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._columns: dict[str, dict[int, int]] = {}
        self._trends: dict[str, dict[int, float]] = {}
        free = [variable for variable in space.variables if len(variable.choices) > 1]
        column = 0
        for variable in free:
            self._columns[variable.name] = {value: column + place for place, value in enumerate(variable.choices)}
            column += len(variable.choices)
            ends = np.linspace(-1, 1, len(variable.choices))
            self._trends[variable.name] = dict(zip(variable.choices, ends.tolist(), strict=True))
        self._single_count = column
        self._names = [variable.name for variable in free]
        pairs = list(itertools.combinations(range(len(free)), 2))
        self._pairs = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        single, trend, product = _SHARES
        variances = [single / max(len(free), 1), trend / max(len(free), 1), product / max(len(pairs), 1)]
        self._scales = np.sqrt(np.repeat(variances, [column, len(free), len(pairs)]))
        width = len(self._scales)
        self._gram, self._feature_sum = np.zeros((width, width)), np.zeros(width)
        self._moments: Array | None = None  # per objective: products with features, sum, sum of squares
        self._signals: list[float] = []  # per objective
        self._worlds: list[tuple[Array, Array]] | None = (
            None  # per objective: the mean of the weights, and their spread
        )
        self.count = 0
        """How many it was told."""
        self._next_choice = 1

    def tell(self, architecture: Architecture, values: Values) -> None:
        """Take one more into account."""
        features = self.features([architecture])[0]
        if self._moments is None:
            self._moments = np.zeros((len(values), len(features) + 2))
        self._gram += np.outer(features, features)
        self._feature_sum += features
        for row, value in zip(self._moments, values, strict=True):
            row[:-2] += value * features
            row[-2] += value
            row[-1] += value * value
        self.count += 1
        self._worlds = None
        if self.count >= self._next_choice:
            # Now and then, and at counts that do not depend on who asks when.
            with _one_thread().limit(limits=1):
                self._signals = [self._likeliest_signal(products) for products in self._products()]
            self._next_choice = math.ceil(1.1 * self.count)

    def draw(self, architectures: Sequence[Architecture], rng: np.random.Generator) -> list[Values]:
        """What they come to in one world that agrees with what was told (Thompson sampling), in standard deviations."""
        features = self.features(architectures)
        with _one_thread().limit(limits=1):
            worlds = self._fitted()
            drawn = [features @ (mean + spread @ rng.standard_normal(len(mean))) for mean, spread in worlds]
        return [tuple(row) for row in np.stack(drawn, axis=1).tolist()]

    def features(self, architectures: Sequence[Architecture]) -> Array:
        """(N, F), scaled by the priors; what an architecture does not have is neither high nor low."""
        single = np.zeros((len(architectures), self._single_count))
        trends = np.zeros((len(architectures), len(self._names)))
        for row, architecture in enumerate(architectures):
            values = self._space.encode(architecture)
            for place, name in enumerate(self._names):
                value = values.get(name)
                if value is not None:
                    single[row, self._columns[name][value]] = 1.0
                    trends[row, place] = self._trends[name][value]
        products = trends[:, self._pairs[0]] * trends[:, self._pairs[1]]
        scaled: Array = np.concatenate([single, trends, products], axis=1) * self._scales
        return scaled

    def _products(self) -> list[Array]:
        """Of features and standardised values, both around their means, so that the mean needs no weight; (F,) each."""
        if self._moments is None:
            raise ValueError("a response surface that was told nothing has nothing to say")
        mean = self._feature_sum / self.count
        found = []
        for row in self._moments:
            deviation = math.sqrt(max(row[-1] / self.count - (row[-2] / self.count) ** 2, 0.0)) or 1.0
            found.append((row[:-2] - row[-2] * mean) / deviation)
        return found

    def _factor(self, signal: float) -> Array:
        """Lower Cholesky factor of the weights' precision, (F, F)."""
        mean = self._feature_sum / self.count
        gram = self._gram - self.count * np.outer(mean, mean)
        return np.linalg.cholesky(np.eye(len(gram)) / signal + gram / (1.0 - signal)).astype(np.float64, copy=False)

    def _likeliest_signal(self, products: Array) -> float:
        """The share of the variance that is signal, by the evidence of the standardised values."""

        def evidence(signal: float) -> float:
            noise, factor = 1.0 - signal, self._factor(signal)
            explained = np.linalg.solve(factor, products / noise)
            spread = 2.0 * np.log(np.diag(factor)).sum() + len(factor) * math.log(signal)
            return -0.5 * float(spread + self.count * (math.log(noise) + 1.0 / noise) - explained @ explained)

        return max(_SIGNALS, key=evidence)

    def _fitted(self) -> list[tuple[Array, Array]]:
        if self._worlds is None:
            self._worlds = []
            for signal, products in zip(self._signals, self._products(), strict=True):
                spread: Array = np.linalg.inv(self._factor(signal)).T.astype(np.float64, copy=False)
                self._worlds.append((spread @ (spread.T @ products) / (1.0 - signal), spread))
        return self._worlds
