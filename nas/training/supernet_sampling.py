"""Samplers of the architectures that a supernet step trains; they depend on the step number and the seed only."""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache

from nas.common.errors import BudgetError
from nas.common.seeds import seed_from
from nas.search.space import Architecture, SearchSpace, Variable
from nas.search.space.operators import shrink

_ATTEMPTS = 100


def sample_feasible(
    space: SearchSpace, rng: random.Random, is_feasible: Callable[[Architecture], bool]
) -> Architecture:
    """Draw a feasible architecture uniformly; if feasible ones are rare, shrink one until it is feasible.

    Raises:
        BudgetError: If no feasible architecture was found.
    """
    for _ in range(_ATTEMPTS):
        architecture = space.sample(rng)
        if is_feasible(architecture):
            return architecture
    architecture = shrink(space, architecture, rng, is_feasible)
    if is_feasible(architecture):
        return architecture
    raise BudgetError(f"no architecture of the space fits the memory budget, not even the smallest ({space.smallest})")


class Sampler(ABC):
    """Draws the architectures of each step.

    Args:
        space: The search space.
        count: The number K of architectures per step.
        seed: The seed of all draws.
        is_feasible: Predicate that every drawn architecture satisfies; must agree on all processes.
    """

    def __init__(
        self, *, space: SearchSpace, count: int, seed: int, is_feasible: Callable[[Architecture], bool]
    ) -> None:
        self.space = space
        self.count = count
        self.seed = seed
        self.is_feasible = is_feasible

    def step(self, number: int) -> list[Architecture]:
        """Draw the K architectures of a step.

        Raises:
            BudgetError: If no architecture is feasible.
        """
        return [self.draw(number * self.count + index) for index in range(self.count)]

    @abstractmethod
    def draw(self, number: int) -> Architecture:
        """Draw one architecture by its number, counted over all steps."""

    def uniform(self, number: int) -> Architecture:
        """Draw every variable uniformly."""
        rng = random.Random(seed_from(self.seed, "supernet architecture", number))
        return sample_feasible(self.space, rng, self.is_feasible)


class UniformSampler(Sampler):
    """Single-path one-shot sampling (Guo et al., ECCV 2020): every variable is drawn uniformly."""

    def draw(self, number: int) -> Architecture:
        return self.uniform(number)


class SandwichSampler(Sampler):
    """Sandwich rule (Yu and Huang, ICCV 2019): every step has the largest, the smallest and random architectures."""

    def step(self, number: int) -> list[Architecture]:
        others = [self.draw(number * self.count + index) for index in range(2, self.count)]
        return [self.largest, self.smallest, *others]

    def draw(self, number: int) -> Architecture:
        return self.uniform(number)

    @cached_property
    def smallest(self) -> Architecture:
        """The smallest architecture of the space, or another feasible one if it is not feasible.

        Raises:
            BudgetError: If no architecture is feasible.
        """
        smallest = self.space.smallest
        if self.is_feasible(smallest):
            return smallest
        return sample_feasible(self.space, random.Random(seed_from(self.seed, "smallest")), self.is_feasible)

    @cached_property
    def largest(self) -> Architecture:
        """The largest feasible architecture; see `SearchSpace.largest_feasible`."""
        return self.space.largest_feasible(self.is_feasible) or self.smallest


class BalancedSampler(Sampler):
    """Strictly fair sampling (Chu et al., FairNAS, ICCV 2021) that favors weights which few other values train.

    Every block of draws contains each value of a variable equally often. Half of the draws of a block are distributed
    evenly over the values, half in proportion to the prompt rows or hidden units (or, for the layer gene, layers) that
    a value adds to those of smaller values. The last rows of long prompts thus get more than an even share.
    """

    _BLOCK_SIZE = 32

    def draw(self, number: int) -> Architecture:
        block, index = divmod(number, self._BLOCK_SIZE)
        values = {variable.name: self._values_of_block(variable, block)[index] for variable in self.space.variables}
        architecture = self.space.decode(values)
        return architecture if self.is_feasible(architecture) else self.uniform(number)

    @lru_cache(maxsize=256)  # noqa: B019 - a sampler lives as long as its training
    def _values_of_block(self, variable: Variable, block: int) -> list[int]:
        """Return the values of one variable in the draws of a block."""
        rng = random.Random(seed_from(self.seed, "supernet block", block, variable.name))
        shares = balanced_shares(variable)
        # Systematic sampling: each value occurs as often as its share of the block, to within one; the random offset
        # decides the rounding.
        offset = rng.random()
        values, end, count = [], 0.0, 0
        for value, share in zip(variable.choices, shares, strict=True):
            end += share * self._BLOCK_SIZE
            while count + offset < end - 1e-9 and count < self._BLOCK_SIZE:
                values.append(value)
                count += 1
        values += [variable.choices[-1]] * (self._BLOCK_SIZE - len(values))
        rng.shuffle(values)
        return values


def balanced_shares(variable: Variable) -> Sequence[float]:
    """Return the fraction of balanced draws for each value of a variable; the fractions add up to 1."""
    choices = variable.choices
    if variable.is_layer:  # an early first layer also trains the layers of later ones
        added = [following - value for value, following in zip(choices, [*choices[1:], choices[-1] + 1], strict=True)]
    else:
        added = [max(value - before, 1) for value, before in zip(choices, [0, *choices[:-1]], strict=True)]
    return [0.5 / len(choices) + 0.5 * size / sum(added) for size in added]


SAMPLERS: dict[str, type[Sampler]] = {
    "uniform": UniformSampler,
    "sandwich": SandwichSampler,
    "balanced": BalancedSampler,
}


def build_sampler(
    name: str, *, space: SearchSpace, count: int, seed: int, is_feasible: Callable[[Architecture], bool]
) -> Sampler:
    """Build a sampler by its name.

    Raises:
        KeyError: If the name is unknown.
    """
    return SAMPLERS[name](space=space, count=count, seed=seed, is_feasible=is_feasible)
