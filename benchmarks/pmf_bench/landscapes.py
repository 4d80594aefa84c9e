"""Landscapes for comparing strategies at milliseconds per evaluation: the table, a surrogate, synthetic functions.

The surrogate covers the whole space of the table, in the style of NAS-Bench-301 (Zela et al., ICLR 2022): a Gaussian
process on the genes, each transformed to log2(1 + value), fitted to the accuracies of all single trainings, so that the
noise between seeds is one of its parameters. An evaluation of the table or the surrogate has the noise of one training.
"""

import functools
import random
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.model_selection import KFold

from benchmarks.models import papers_space
from benchmarks.pmf_bench.table import TABLE, Table, read_table
from nas.common.seeds import seed_from
from nas.config.load import load_config
from nas.models.fusion.pmf.architecture import GENES
from nas.search.space import Architecture, SearchSpace

SPACES = Path(__file__).resolve().parent.parent.parent / "search_spaces"
METRIC = "accuracy"


class Landscape(ABC):
    """The quality of every architecture of a space.

    Args:
        name: The name in tables.
        space: The search space of the strategies.
        noise: The standard deviation of one evaluation.
    """

    def __init__(self, name: str, space: SearchSpace, noise: float) -> None:
        self.name = name
        self.space = space
        self.noise = noise

    @abstractmethod
    def mean(self, architecture: Architecture) -> float:
        """Return the mean quality of an architecture; higher is better."""

    @property
    @abstractmethod
    def best(self) -> float:
        """The highest mean of the space."""

    @property
    @abstractmethod
    def top(self) -> float:
        """The lowest mean within the best hundredth of the space."""

    def knows(self, architecture: Architecture) -> bool:
        """Return whether the architecture can be evaluated."""
        return architecture in self.space

    def evaluate(self, architecture: Architecture, seed: int) -> float:
        """Return one noisy evaluation; the same seed gives the same value."""
        values = list(self.space.encode(architecture).values())
        rng = random.Random(seed_from(seed, "noise", *values))
        return self.mean(architecture) + rng.gauss(0.0, self.noise)


class Listed(Landscape):
    """A landscape with a known mean for every architecture that can be evaluated.

    Args:
        name: The name in tables.
        space: The search space of the strategies.
        noise: The standard deviation of one evaluation.
        means: The mean quality of each architecture that can be evaluated.
    """

    def __init__(self, name: str, space: SearchSpace, noise: float, means: Mapping[Architecture, float]) -> None:
        super().__init__(name, space, noise)
        self._means = means
        self._ranked = sorted(means.values(), reverse=True)

    def mean(self, architecture: Architecture) -> float:
        return self._means[architecture]

    def knows(self, architecture: Architecture) -> bool:
        return architecture in self._means

    @property
    def best(self) -> float:
        return self._ranked[0]

    @property
    def top(self) -> float:
        return self._ranked[max(len(self._ranked) // 100, 1) - 1]


def tabular(table: Table) -> Landscape:
    """Return the landscape of the trainings themselves; only architectures of the table can be evaluated."""
    space = papers_space(load_config(SPACES / "demo.yaml").space)
    return Listed("table", space, table.seed_deviation(METRIC), table.means(METRIC))


class Surrogate:
    """A Gaussian process fitted to all trainings of a table.

    Args:
        table: The trainings to fit.
    """

    def __init__(self, table: Table) -> None:
        self._process = fitted(table.rows_of(METRIC))

    @property
    def noise(self) -> float:
        """The fitted standard deviation of one training."""
        return float(np.sqrt(self._process.kernel_.k2.noise_level) * self._process._y_train_std)

    def means(self, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
        """Return the predicted mean accuracy of each architecture, (N,)."""
        values: NDArray[np.float64] = self._process.predict(features(architectures))
        return values


def cross_validated(table: Table, folds: int) -> dict[str, float]:
    """Return the rank correlations of predictions for held-out architectures with their means over two seeds."""
    means = table.means(METRIC)
    chosen = list(means)
    predicted = np.empty(len(chosen))
    for kept, left_out in KFold(folds, shuffle=True, random_state=0).split(chosen):
        there = {chosen[place] for place in kept}
        rows = [row for row in table.rows_of(METRIC) if row[0] in there]
        predicted[left_out] = fitted(rows).predict(features([chosen[place] for place in left_out]))
    truth = [means[architecture] for architecture in chosen]
    return {
        "kendall_tau": float(kendalltau(predicted, truth).statistic),
        "spearman": float(spearmanr(predicted, truth).statistic),
    }


def features(architectures: Sequence[Architecture]) -> NDArray[np.float64]:
    """Return log2(1 + value) of every gene, (N, genes)."""
    return np.log2(1.0 + np.array([[getattr(entry, gene) for gene in GENES] for entry in architectures], float))


def fitted(rows: Sequence[tuple[Architecture, float]]) -> GaussianProcessRegressor:
    """Fit a Gaussian process to single trainings."""
    kernel = ConstantKernel(1.0) * Matern([1.0] * 5, (0.1, 100.0), nu=2.5) + WhiteKernel(0.5, (1e-3, 10.0))
    process = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=2, random_state=0)
    inputs = features([architecture for architecture, _ in rows])
    with warnings.catch_warnings():
        # The length scale of an irrelevant gene reaches its bound.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return process.fit(inputs, [value for _, value in rows])


def surrogate(table: Table) -> Landscape:
    """Return the landscape of a surrogate over the whole space of the table."""
    space = papers_space(load_config(SPACES / "demo.yaml").space)
    everything = list(space)
    process = Surrogate(table)
    means = dict(zip(everything, process.means(everything).tolist(), strict=True))
    return Listed("surrogate", space, process.noise, means)


class Function(Landscape):
    """A synthetic function on a space too large to enumerate, whose optimum is known by construction.

    Every variable has an optimal value; the cost grows with the distance from it. Variables are paired: an equal
    distance in both costs less than a distance in one of them (`interaction`), so that genes cannot be optimised
    separately. With `steps` the function is rounded to that many levels, so that most changes have no effect.

    Args:
        name: The name in tables.
        space: The search space of the strategies.
        noise: The standard deviation of one evaluation; the function ranges from 0 to 1.
        interaction: The fraction of the cost that comes from pairs.
        steps: The number of levels; None for no rounding.
    """

    _SAMPLED = 20_000

    def __init__(
        self, name: str, space: SearchSpace, noise: float, *, interaction: float, steps: int | None = None
    ) -> None:
        super().__init__(name, space, noise)
        rng = random.Random(seed_from(0, name))
        free = [variable for variable in space.variables if len(variable.choices) > 1]
        self._places = {
            variable.name: {value: place / (len(variable.choices) - 1) for place, value in enumerate(variable.choices)}
            for variable in free
        }
        names = [variable.name for variable in free]
        self._optimal = {name: rng.choice(list(self._places[name].values())) for name in names}
        # Early fusion is optimal; otherwise genes of layers that do not fuse would have no effect.
        self._optimal["fusion_layer"] = 0.0
        weights = [rng.expovariate(1.0) for _ in names]
        self._weights = {name: weight / sum(weights) for name, weight in zip(names, weights, strict=True)}
        shuffled = names[:]
        rng.shuffle(shuffled)
        self._pairs = list(zip(names, shuffled, strict=True))
        self._interaction, self._steps = interaction, steps

    @property
    def optimum(self) -> Architecture:
        """The architecture with the optimal value of every variable."""
        fixed = {variable.name: variable.choices[0] for variable in self.space.variables}
        optimal = {
            name: next(value for value, place in places.items() if place == self._optimal[name])
            for name, places in self._places.items()
        }
        return self.space.decode(fixed | optimal)

    def mean(self, architecture: Architecture) -> float:
        values = self.space.encode(architecture)
        # A variable that an architecture does not have counts as the largest distance.
        off = {
            name: self._places[name][values[name]] - optimal if name in values else 1.0
            for name, optimal in self._optimal.items()
        }
        single = sum(self._weights[name] * abs(distance) for name, distance in off.items())
        paired = sum(self._weights[first] * abs(off[first] - off[second]) for first, second in self._pairs) / 2
        value = 1.0 - (1.0 - self._interaction) * single - self._interaction * paired - 0.01 * single
        return value if self._steps is None else round(value * self._steps) / self._steps

    @property
    def best(self) -> float:
        return 1.0

    @functools.cached_property
    def top(self) -> float:
        """The lowest mean within the best hundredth of a random sample."""
        rng = random.Random(0)
        means = sorted((self.mean(self.space.sample(rng)) for _ in range(self._SAMPLED)), reverse=True)
        return means[self._SAMPLED // 100]


def functions() -> list[Landscape]:
    """Return the synthetic landscapes: interactions, plateaus, noise."""
    space = papers_space(load_config(SPACES / "demo_per_layer.yaml").space)
    return [
        Function("interactions", space, 0.01, interaction=0.5),
        Function("plateaus", space, 0.01, interaction=0.2, steps=12),
        Function("noise", space, 0.15, interaction=0.2),
    ]


def landscapes(path: Path = TABLE) -> list[Landscape]:
    """Return all landscapes: the table, its surrogate and the synthetic functions."""
    table = read_table(path)
    return [tabular(table), surrogate(table), *functions()]
