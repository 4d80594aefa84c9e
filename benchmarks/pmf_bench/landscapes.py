"""What strategies are compared on, in milliseconds an evaluation: the table, a surrogate fitted to it, and functions.

The surrogate answers for the whole space of the table, in the manner of NAS-Bench-301 (Zela et al., ICLR 2022): a
Gaussian process on the genes, each as the logarithm of one more than its value, fitted to the accuracies of all single
trainings, so that the noise between seeds is one of its parameters. An evaluation of table or surrogate is noisy as one
training is.
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

from benchmarks.pmf_bench.table import TABLE, Table, read_table
from nas.common.seeds import seed_from
from nas.config.load import load_config
from nas.search.space import Architecture, SearchSpace

SPACES = Path(__file__).resolve().parent.parent.parent / "search_spaces"
METRIC = "accuracy"


class Landscape(ABC):
    """What architectures come to.

    Args:
        name: For tables.
        space: What strategies may propose.
        noise: Standard deviation of one evaluation.
    """

    def __init__(self, name: str, space: SearchSpace, noise: float) -> None:
        self.name = name
        self.space = space
        self.noise = noise

    @abstractmethod
    def mean(self, architecture: Architecture) -> float:
        """What it comes to on average; higher is better."""

    @property
    @abstractmethod
    def best(self) -> float:
        """The highest mean."""

    @property
    @abstractmethod
    def top(self) -> float:
        """What the best hundredth of the space comes to at least."""

    def knows(self, architecture: Architecture) -> bool:
        """Whether it can be evaluated."""
        return architecture in self.space

    def evaluate(self, architecture: Architecture, seed: int) -> float:
        """One evaluation: the same twice for the same seed."""
        values = list(self.space.encode(architecture).values())
        rng = random.Random(seed_from(seed, "noise", *values))
        return self.mean(architecture) + rng.gauss(0.0, self.noise)


class Listed(Landscape):
    """All means are known.

    Args:
        name: For tables.
        space: What strategies may propose.
        noise: Standard deviation of one evaluation.
        means: Of every architecture that can be evaluated.
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
    """The trainings themselves: only architectures of the table can be evaluated."""
    space = load_config(SPACES / "demo.yaml").space
    return Listed("table", space, table.seed_deviation(METRIC), table.means(METRIC))


class Surrogate:
    """The fitted process.

    Args:
        table: Trainings.
    """

    def __init__(self, table: Table) -> None:
        self._process = fitted(table.rows_of(METRIC))

    @property
    def noise(self) -> float:
        """Standard deviation of one training, as fitted."""
        return float(np.sqrt(self._process.kernel_.k2.noise_level) * self._process._y_train_std)

    def means(self, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
        values: NDArray[np.float64] = self._process.predict(features(architectures))
        return values


def cross_validated(table: Table, folds: int) -> dict[str, float]:
    """Rank correlation of what surrogates say of architectures that were left out with their mean over two seeds."""
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
    """(N, genes)."""
    return np.log2(1.0 + np.array([list(architecture.values().values()) for architecture in architectures], float))


def fitted(rows: Sequence[tuple[Architecture, float]]) -> GaussianProcessRegressor:
    """A process fitted to single trainings."""
    kernel = ConstantKernel(1.0) * Matern([1.0] * 5, (0.1, 100.0), nu=2.5) + WhiteKernel(0.5, (1e-3, 10.0))
    process = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=2, random_state=0)
    inputs = features([architecture for architecture, _ in rows])
    with warnings.catch_warnings():
        # A gene that says nothing has no length within any bounds.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return process.fit(inputs, [value for _, value in rows])


def surrogate(table: Table) -> Landscape:
    """The fitted process on the whole space."""
    space = load_config(SPACES / "demo.yaml").space
    everyone = list(space)
    process = Surrogate(table)
    means = dict(zip(everyone, process.means(everyone).tolist(), strict=True))
    return Listed("surrogate", space, process.noise, means)


class Function(Landscape):
    """A function on a space too large to list, whose optimum is known by construction.

    Every variable has a value that it wants; being off costs, by how many places. Pairs of variables agree: being off
    in both the same way is not as bad as being off in one (`interaction`), so that genes cannot be chosen one by one.
    With `steps` the function takes only so many values, so that most changes change nothing.

    Args:
        name: For tables.
        space: What strategies may propose.
        noise: Standard deviation of one evaluation; the function goes from 0 to 1.
        interaction: Part of the cost that comes from pairs.
        steps: Levels; None for as many as there are.
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
        self._wanted = {name: rng.choice(list(self._places[name].values())) for name in names}
        # Fusing early is best here, or genes of layers that do not fuse could be chosen in vain.
        self._wanted["fusion_layer"] = 0.0
        weights = [rng.expovariate(1.0) for _ in names]
        self._weights = {name: weight / sum(weights) for name, weight in zip(names, weights, strict=True)}
        shuffled = names[:]
        rng.shuffle(shuffled)
        self._pairs = list(zip(names, shuffled, strict=True))
        self._interaction, self._steps = interaction, steps

    def mean(self, architecture: Architecture) -> float:
        values = self.space.encode(architecture)
        # What an architecture does not have is as far off as can be.
        off = {
            name: self._places[name][values[name]] - wanted if name in values else 1.0
            for name, wanted in self._wanted.items()
        }
        alone = sum(self._weights[name] * abs(distance) for name, distance in off.items())
        together = sum(self._weights[first] * abs(off[first] - off[second]) for first, second in self._pairs) / 2
        value = 1.0 - (1.0 - self._interaction) * alone - self._interaction * together - 0.01 * alone
        return value if self._steps is None else round(value * self._steps) / self._steps

    @property
    def best(self) -> float:
        return 1.0

    @functools.cached_property
    def top(self) -> float:  # type: ignore[override]
        """What the best hundredth comes to, of a sample."""
        rng = random.Random(0)
        means = sorted((self.mean(self.space.sample(rng)) for _ in range(self._SAMPLED)), reverse=True)
        return means[self._SAMPLED // 100]


def functions() -> list[Landscape]:
    """Interactions, plateaus, noise."""
    space = load_config(SPACES / "demo_per_layer.yaml").space
    return [
        Function("interactions", space, 0.01, interaction=0.5),
        Function("plateaus", space, 0.01, interaction=0.2, steps=12),
        Function("noise", space, 0.15, interaction=0.2),
    ]


def landscapes(path: Path = TABLE) -> list[Landscape]:
    """All of them."""
    table = read_table(path)
    return [tabular(table), surrogate(table), *functions()]
