"""The interface of every search strategy: `ask` for an architecture, `tell` its objective values.

A strategy never runs anything. Its proposals depend only on the search space, the seed, the number of earlier proposals
and the values reported so far, in their order. A resumed search therefore replays the stored results and continues with
the same proposals.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from nas.common.seeds import seed_from
from nas.search.pareto import Values
from nas.search.space import Architecture, SearchSpace
from nas.search.space.operators import mutate, shrink

_ATTEMPTS = 10
_NEIGHBOURS = 10
_NEIGHBOUR_PROBABILITY = 0.3  # of each variable to be redrawn
_MAX_ENUMERATED = 200_000
_RANDOM_DRAWS = 100


@dataclass(frozen=True)
class Task:
    """The search problem that a strategy solves.

    Args:
        space: The search space.
        seed: The seed of the strategy; the same seed and the same values give the same proposals.
        is_feasible: Callback that returns whether an architecture fits the memory budget when it runs alone.
        initial_architectures: Architectures to propose first, if they are feasible and in the space.
    """

    space: SearchSpace
    seed: int
    is_feasible: Callable[[Architecture], bool]
    initial_architectures: Sequence[Architecture] = ()


@dataclass(frozen=True)
class EvolutionSettings:
    """Settings of the evolutionary strategies; other strategies ignore them.

    Args:
        population: The number of scored candidates in a generation; for `regularized_evolution`, in the population.
        parents: The number of parents of the next generation; for `regularized_evolution`, the size of the random
            sample whose best candidate becomes the parent.
        crossover_fraction: The fraction of children that are crossovers of two parents.
        mutation_fraction: The fraction of children that are mutations of one parent; the rest are random.
        mutation_probability: The probability that a mutation redraws a variable.
        proposal_pool: The number of children from which the surrogate selects each proposal; 1 disables the surrogate.
    """

    population: int
    parents: int
    crossover_fraction: float
    mutation_fraction: float
    mutation_probability: float
    proposal_pool: int


class Strategy(ABC):
    """Proposes feasible architectures, each at most once.

    Subclasses keep this constructor signature, so that the registry can build any of them.

    Args:
        task: The task to search.
        settings: The settings of the evolutionary strategies.
    """

    def __init__(self, task: Task, settings: EvolutionSettings) -> None:
        self.space = task.space
        self.settings = settings
        self._task = task
        self._initial = [architecture for architecture in task.initial_architectures if architecture in task.space]
        self._proposed: set[Architecture] = set()

    def ask(self) -> Architecture | None:
        """Return the next architecture to score.

        Returns None if every feasible architecture has been proposed; in a space too large to enumerate, if no new
        feasible one was found.
        """
        rng = random.Random(seed_from(self._task.seed, "ask", self.proposed_count))
        for architecture in self._initial:
            if self._is_new(architecture):
                return self._propose(architecture)
        for architecture in self.candidates(rng):
            if self._is_new(architecture):
                return self._propose(architecture)
        return self._random_new(rng)

    def tell(self, architecture: Architecture, *values: float) -> None:
        """Report the objective values of an architecture, including one that an earlier session proposed.

        Args:
            architecture: The scored architecture.
            values: One value per objective, higher is better; every call passes the same number of values.
        """
        self.mark_proposed(architecture)
        self.learn(architecture, tuple(float(value) for value in values))

    def mark_proposed(self, architecture: Architecture) -> None:
        """Exclude an architecture from further proposals, whether or not its values are known."""
        self._proposed.add(architecture)

    @abstractmethod
    def learn(self, architecture: Architecture, values: Values) -> None:
        """Update the strategy with the objective values of one architecture."""

    @abstractmethod
    def candidates(self, rng: random.Random) -> Iterator[Architecture]:
        """Yield candidate proposals, the preferred one first; the first new and feasible one is proposed."""

    @property
    def proposed_count(self) -> int:
        """The number of architectures proposed so far."""
        return len(self._proposed)

    def was_proposed(self, architecture: Architecture) -> bool:
        """Return whether the architecture was proposed before."""
        return architecture in self._proposed

    @property
    def is_exhaustive(self) -> bool:
        """Whether `ask` enumerates the whole space before it returns None."""
        return self.space.size <= _MAX_ENUMERATED

    def _propose(self, architecture: Architecture) -> Architecture:
        self.mark_proposed(architecture)
        return architecture

    def _is_new(self, architecture: Architecture) -> bool:
        return architecture not in self._proposed and self._task.is_feasible(architecture)

    def _random_new(self, rng: random.Random) -> Architecture | None:
        """Return a random new architecture, or None if none was found."""
        if self.is_exhaustive:
            everything = list(self.space)
            rng.shuffle(everything)
            candidates = iter(everything)
        else:
            is_feasible = self._task.is_feasible
            candidates = (shrink(self.space, self.space.sample(rng), rng, is_feasible) for _ in range(_RANDOM_DRAWS))
        found = next((architecture for architecture in candidates if self._is_new(architecture)), None)
        return None if found is None else self._propose(found)


class SingleProposalStrategy(Strategy):
    """A strategy that makes one proposal at a time, which may be a duplicate or infeasible."""

    @abstractmethod
    def propose(self, rng: random.Random) -> Architecture:
        """Return one proposal."""

    def candidates(self, rng: random.Random) -> Iterator[Architecture]:
        for _ in range(_ATTEMPTS):
            proposal = self.propose(rng)
            yield proposal
            # A converged strategy repeats itself; neighbours of its proposal are more useful than random architectures.
            for _ in range(_NEIGHBOURS):
                yield mutate(self.space, proposal, rng, _NEIGHBOUR_PROBABILITY)
