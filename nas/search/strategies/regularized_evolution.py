"""Regularized (aging) evolution."""

import random
from collections import deque

from nas.search.pareto import Values
from nas.search.space import Architecture
from nas.search.strategies.base import EvolutionConfig, Proposer, Task
from nas.search.strategies.selection import best


class RegularizedEvolution(Proposer):
    """Aging evolution (Real et al., AAAI 2019, algorithm 1): the best of a random sample has a child, the oldest dies.

    A child differs from its parent in one variable.
    """

    def __init__(self, task: Task, evolution: EvolutionConfig) -> None:
        super().__init__(task)
        self._evolution = evolution
        self._population: deque[tuple[Architecture, Values]] = deque(maxlen=evolution.population)

    def learn(self, architecture: Architecture, values: Values) -> None:
        self._population.append((architecture, values))

    def propose(self, rng: random.Random) -> Architecture:
        if len(self._population) < self._evolution.population:
            return self.space.sample(rng)
        sample = dict(rng.sample(list(self._population), self._evolution.parents))
        ((parent, _),) = best(sample, 1)
        return self.space.neighbour(parent, rng)
