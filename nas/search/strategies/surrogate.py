"""A Bayesian linear surrogate: predicts the objective values of architectures from all scores so far.

Genes are ordinal and few, so single values, linear trends and products of two trends explain most of the variance, from
about a dozen scores on. Weights have independent normal priors; the signal's share of the variance is selected by the
model evidence (MacKay, Neural Computation 1992). Only sums over observations are kept, so a thousand scores cost as
much as ten.
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

_PRIOR_SHARES = (0.35, 0.35, 0.3)
"""Prior shares of the signal's variance: single values, trends, products of trends."""
_SIGNAL_SHARES = (0.1, 0.3, 0.5, 0.7, 0.85, 0.95)
"""Candidate shares of the variance that are signal; the rest is noise."""

Array = NDArray[np.float64]

# Workers keep all cores busy. Threads that wait for cores would make these small matrices a hundred times slower.
_thread_pools = cache(ThreadpoolController)


class BayesianLinearSurrogate:
    """Draws objective values of architectures from the posterior of a linear model.

    Args:
        space: The space of the architectures.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._columns: dict[str, dict[int, int]] = {}
        self._trends: dict[str, dict[int, float]] = {}
        free = [variable for variable in space.variables if len(variable.choices) > 1]
        column = 0
        for variable in free:
            self._columns[variable.name] = {value: column + index for index, value in enumerate(variable.choices)}
            column += len(variable.choices)
            positions = np.linspace(-1, 1, len(variable.choices))
            self._trends[variable.name] = dict(zip(variable.choices, positions.tolist(), strict=True))
        self._single_count = column
        self._names = [variable.name for variable in free]
        pairs = list(itertools.combinations(range(len(free)), 2))
        self._pairs = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        single, trend, product = _PRIOR_SHARES
        variances = [single / max(len(free), 1), trend / max(len(free), 1), product / max(len(pairs), 1)]
        self._scales = np.sqrt(np.repeat(variances, [column, len(free), len(pairs)]))
        width = len(self._scales)
        self._gram, self._feature_sum = np.zeros((width, width)), np.zeros(width)
        self._moments: Array | None = None  # per objective: products with features, sum, sum of squares
        self._signals: list[float] = []  # per objective
        self._posteriors: list[tuple[Array, Array]] | None = None  # per objective: mean and spread of the weights
        self.count = 0
        """The number of observations."""
        self._next_selection = 1

    def observe(self, architecture: Architecture, values: Values) -> None:
        """Add one observation.

        Args:
            architecture: The scored architecture.
            values: One value per objective.
        """
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
        self._posteriors = None
        if self.count >= self._next_selection:
            # Only at some counts, for speed; the counts do not depend on when `draw` is called.
            with _thread_pools().limit(limits=1):
                self._signals = [self._most_likely_signal(products) for products in self._products()]
            self._next_selection = math.ceil(1.1 * self.count)

    def draw(self, architectures: Sequence[Architecture], rng: np.random.Generator) -> list[Values]:
        """Draw the values of architectures from one sample of the posterior (Thompson sampling).

        Args:
            architectures: The architectures to predict.
            rng: The generator of the sample.

        Returns:
            One tuple per architecture with one value per objective, in standard deviations of the observed values.

        Raises:
            ValueError: If there are no observations.
        """
        features = self.features(architectures)
        with _thread_pools().limit(limits=1):
            posteriors = self._fitted()
            drawn = [features @ (mean + spread @ rng.standard_normal(len(mean))) for mean, spread in posteriors]
        return [tuple(row) for row in np.stack(drawn, axis=1).tolist()]

    def features(self, architectures: Sequence[Architecture]) -> Array:
        """Return the features of architectures, (N, F), scaled by the priors; inactive variables contribute zero."""
        single = np.zeros((len(architectures), self._single_count))
        trends = np.zeros((len(architectures), len(self._names)))
        for row, architecture in enumerate(architectures):
            values = self._space.encode(architecture)
            for index, name in enumerate(self._names):
                value = values.get(name)
                if value is not None:
                    single[row, self._columns[name][value]] = 1.0
                    trends[row, index] = self._trends[name][value]
        products = trends[:, self._pairs[0]] * trends[:, self._pairs[1]]
        scaled: Array = np.concatenate([single, trends, products], axis=1) * self._scales
        return scaled

    def _products(self) -> list[Array]:
        """Return the products of features and standardised values, (F,) per objective.

        Both are centred, so that the model needs no intercept.
        """
        if self._moments is None:
            raise ValueError("no observations yet")
        mean = self._feature_sum / self.count
        found = []
        for row in self._moments:
            deviation = math.sqrt(max(row[-1] / self.count - (row[-2] / self.count) ** 2, 0.0)) or 1.0
            found.append((row[:-2] - row[-2] * mean) / deviation)
        return found

    def _factor(self, signal: float) -> Array:
        """Return the lower Cholesky factor of the precision of the weights, (F, F)."""
        mean = self._feature_sum / self.count
        gram = self._gram - self.count * np.outer(mean, mean)
        return np.linalg.cholesky(np.eye(len(gram)) / signal + gram / (1.0 - signal)).astype(np.float64, copy=False)

    def _most_likely_signal(self, products: Array) -> float:
        """Return the signal's share of the variance with the highest model evidence."""

        def evidence(signal: float) -> float:
            noise, factor = 1.0 - signal, self._factor(signal)
            explained = np.linalg.solve(factor, products / noise)
            spread = 2.0 * np.log(np.diag(factor)).sum() + len(factor) * math.log(signal)
            return -0.5 * float(spread + self.count * (math.log(noise) + 1.0 / noise) - explained @ explained)

        return max(_SIGNAL_SHARES, key=evidence)

    def _fitted(self) -> list[tuple[Array, Array]]:
        if self._posteriors is None:
            self._posteriors = []
            for signal, products in zip(self._signals, self._products(), strict=True):
                spread: Array = np.linalg.inv(self._factor(signal)).T.astype(np.float64, copy=False)
                self._posteriors.append((spread @ (spread.T @ products) / (1.0 - signal), spread))
        return self._posteriors
