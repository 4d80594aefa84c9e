"""Which architectures a step of the supernet trains: a function of the step's number and the seed alone."""

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
    """A uniformly drawn architecture that fits; where hardly any do, one that is made smaller until it does.

    Raises:
        BudgetError: If none was found; the smallest is named.
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
    """Draws the architectures of a step.

    Args:
        space: Theirs.
        count: K, how many a step has.
        seed: Decides them.
        is_feasible: Only these are drawn; has to say the same on every process.
    """

    def __init__(
        self, *, space: SearchSpace, count: int, seed: int, is_feasible: Callable[[Architecture], bool]
    ) -> None:
        self.space = space
        self.count = count
        self.seed = seed
        self.is_feasible = is_feasible

    def step(self, number: int) -> list[Architecture]:
        """Those of a step, (K,).

        Raises:
            BudgetError: If no architecture fits.
        """
        return [self.draw(number * self.count + place) for place in range(self.count)]

    @abstractmethod
    def draw(self, number: int) -> Architecture:
        """The one of that number, counted over all steps."""

    def uniform(self, number: int) -> Architecture:
        """Every variable drawn uniformly."""
        rng = random.Random(seed_from(self.seed, "supernet architecture", number))
        return sample_feasible(self.space, rng, self.is_feasible)


class Uniform(Sampler):
    """Single-path one-shot (Guo et al., ECCV 2020): every variable drawn uniformly."""

    def draw(self, number: int) -> Architecture:
        return self.uniform(number)


class Sandwich(Sampler):
    """The sandwich rule (Yu and Huang, ICCV 2019): in every step the largest, the smallest, and random ones between."""

    def step(self, number: int) -> list[Architecture]:
        between = [self.draw(number * self.count + place) for place in range(2, self.count)]
        return [self.largest, self.smallest, *between]

    def draw(self, number: int) -> Architecture:
        return self.uniform(number)

    @cached_property
    def smallest(self) -> Architecture:
        """Of the space; another one, if there is one that fits, where that one does not.

        Raises:
            BudgetError: If no architecture fits.
        """
        smallest = self.space.smallest
        if self.is_feasible(smallest):
            return smallest
        return sample_feasible(self.space, random.Random(seed_from(self.seed, "smallest")), self.is_feasible)

    @cached_property
    def largest(self) -> Architecture:
        """Of those that fit; see `SearchSpace.largest_feasible`."""
        return self.space.largest_feasible(self.is_feasible) or self.smallest


class Balanced(Sampler):
    """Strictly fair (Chu et al., FairNAS, ICCV 2021), and more often what little else trains.

    In every block of draws each value of a variable comes as often as in every other block. How often: half of the
    draws are spread evenly over the values, half by how many rows or units (or, for the layer gene, layers) a value
    adds to those that smaller values train as well. So the last rows of long prompts get more than their even share.
    """

    _BLOCK = 32

    def draw(self, number: int) -> Architecture:
        block, place = divmod(number, self._BLOCK)
        values = {variable.name: self._order(variable, block)[place] for variable in self.space.variables}
        architecture = self.space.decode(values)
        return architecture if self.is_feasible(architecture) else self.uniform(number)

    @lru_cache(maxsize=256)  # noqa: B019 - a sampler lives as long as the training
    def _order(self, variable: Variable, block: int) -> list[int]:
        """Values of one variable in the draws of a block."""
        rng = random.Random(seed_from(self.seed, "supernet block", block, variable.name))
        shares = shares_of(variable)
        # Systematic: of every value as many as its share of the block, to within one; who gets the odd one is drawn.
        start = rng.random()
        values, reached, place = [], 0.0, 0
        for value, share in zip(variable.choices, shares, strict=True):
            reached += share * self._BLOCK
            while place + start < reached - 1e-9 and place < self._BLOCK:
                values.append(value)
                place += 1
        values += [variable.choices[-1]] * (self._BLOCK - len(values))
        rng.shuffle(values)
        return values


def shares_of(variable: Variable) -> Sequence[float]:
    """How often each value of a variable is drawn to be balanced; they add up to 1."""
    choices = variable.choices
    if variable.is_layer:  # an early one trains the layers of later ones as well
        own = [following - value for value, following in zip(choices, [*choices[1:], choices[-1] + 1], strict=True)]
    else:
        own = [max(value - before, 1) for value, before in zip(choices, [0, *choices[:-1]], strict=True)]
    return [0.5 / len(choices) + 0.5 * size / sum(own) for size in own]


SAMPLERS: dict[str, type[Sampler]] = {"uniform": Uniform, "sandwich": Sandwich, "balanced": Balanced}


def build_sampler(
    name: str, *, space: SearchSpace, count: int, seed: int, is_feasible: Callable[[Architecture], bool]
) -> Sampler:
    """The sampler of that name.

    Raises:
        KeyError: If there is none.
    """
    return SAMPLERS[name](space=space, count=count, seed=seed, is_feasible=is_feasible)
