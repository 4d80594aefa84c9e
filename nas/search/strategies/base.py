"""What every strategy offers: ask for an architecture, tell what came out. A strategy never runs anything.

What a strategy proposes depends on the space, the seed, the number of the proposal and on what it was told before, in
that order, and on nothing else. So its state is what was proposed and told, and one that is given the same goes on in
the same way.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas.common.seeds import seed_from
from nas.search.pareto import Values
from nas.search.space import Architecture, SearchSpace

_ATTEMPTS = 10
_NEIGHBOURS = 10
_NEIGHBOUR = 0.3  # probability of each variable to change
_ENUMERABLE = 200_000
_DRAWS = 100


@dataclass(frozen=True)
class Task:
    """What a strategy is to search.

    Args:
        space: What may be chosen.
        seed: Same seed and same values, same proposals.
        is_feasible: Whether an architecture fits the memory budget alone.
        first: Proposed first, where feasible and in the space.
    """

    space: SearchSpace
    seed: int
    is_feasible: Callable[[Architecture], bool]
    first: Sequence[Architecture] = ()


class Strategy(ABC):
    """Proposes architectures that were not proposed before and can fit.

    Args:
        task: What to search.
    """

    def __init__(self, task: Task) -> None:
        self.space = task.space
        self._task = task
        self._first = [architecture for architecture in task.first if architecture in task.space]
        self._proposed: dict[Architecture, None] = {}
        self._told: list[tuple[Architecture, Values]] = []

    def ask(self) -> Architecture | None:
        """The next architecture to score.

        None when every feasible one has been proposed; in a space that is too large to look at all of it, when none was
        found that is new.
        """
        rng = random.Random(seed_from(self._task.seed, "ask", len(self._proposed)))
        for architecture in self._first:
            if self._is_new(architecture):
                return self._remember(architecture)
        for architecture in self.candidates(rng):
            if self._is_new(architecture):
                return self._remember(architecture)
        return self._any_new(rng)

    def tell(self, architecture: Architecture, *values: float) -> None:
        """Learn what came out of an architecture; also of one that an earlier session proposed.

        Args:
            architecture: Which.
            values: One an objective, each better when higher; always as many.
        """
        self.mark_proposed(architecture)
        self._told.append((architecture, tuple(float(value) for value in values)))
        self.learn(*self._told[-1])

    def mark_proposed(self, architecture: Architecture) -> None:
        """Never propose this one again, whether its values are known or not."""
        self._proposed.setdefault(architecture)

    def state(self) -> dict[str, Any]:
        """Everything that the next proposals depend on beside the arguments, as JSON has it."""
        return {
            "proposed": [architecture.as_dict() for architecture in self._proposed],
            "told": [[architecture.as_dict(), list(values)] for architecture, values in self._told],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on as the strategy that gave this state would have.

        Raises:
            ValueError: If this one was used already.
        """
        if self._proposed:
            raise ValueError("a strategy that has proposed something cannot take the state of another")
        for proposed in state["proposed"]:
            self.mark_proposed(Architecture.from_dict(proposed))
        for architecture, values in state["told"]:
            self.tell(Architecture.from_dict(architecture), *values)

    @abstractmethod
    def learn(self, architecture: Architecture, values: Values) -> None:
        """Take values into account."""

    @abstractmethod
    def candidates(self, rng: random.Random) -> Iterator[Architecture]:
        """Proposals, the most wanted first; the first one that is new and feasible is taken."""

    def is_known(self, architecture: Architecture) -> bool:
        """Whether it was proposed before."""
        return architecture in self._proposed

    def _remember(self, architecture: Architecture) -> Architecture:
        self._proposed[architecture] = None
        return architecture

    def _is_new(self, architecture: Architecture) -> bool:
        return architecture not in self._proposed and self._task.is_feasible(architecture)

    @property
    def looks_at_all(self) -> bool:
        """Whether every architecture is looked at before `ask` says that there is none."""
        return self.space.size <= _ENUMERABLE

    def _any_new(self, rng: random.Random) -> Architecture | None:
        """A random new architecture, if there is one."""
        if self.looks_at_all:
            everyone = list(self.space)
            rng.shuffle(everyone)
            candidates = iter(everyone)
        else:
            candidates = (
                self.space.shrunken(self.space.sample(rng), rng, self._task.is_feasible) for _ in range(_DRAWS)
            )
        found = next((architecture for architecture in candidates if self._is_new(architecture)), None)
        return None if found is None else self._remember(found)


class Proposer(Strategy):
    """A strategy that makes one proposal at a time, which may be known or infeasible."""

    @abstractmethod
    def propose(self, rng: random.Random) -> Architecture:
        """One proposal."""

    def candidates(self, rng: random.Random) -> Iterator[Architecture]:
        for _ in range(_ATTEMPTS):
            proposal = self.propose(rng)
            yield proposal
            # A strategy that has converged repeats itself; a neighbour of what it wants says more than a random one.
            for _ in range(_NEIGHBOURS):
                yield self.space.mutate(proposal, rng, _NEIGHBOUR)


@dataclass(frozen=True)
class EvolutionConfig:
    """AutoFormer's evolution: each generation keeps `parents` and adds children by crossover, mutation and chance.

    Of `proposal_pool` children a response surface, fitted to all scores so far, picks the one that is proposed; 1
    proposes
    each. `population` is also that of the other evolutions; `regularized_evolution` takes its parent from a sample of
    `parents`.
    """

    population: int
    parents: int
    crossover_fraction: float
    mutation_fraction: float
    mutation_probability: float
    proposal_pool: int
