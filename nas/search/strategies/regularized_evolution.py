"""Regularized (aging) evolution."""

import random
from collections import deque

from nas.search.pareto import Values
from nas.search.space import Architecture
from nas.search.space.operators import neighbour
from nas.search.strategies.base import EvolutionSettings, SingleProposalStrategy, Task
from nas.search.strategies.selection import select_best


class RegularizedEvolution(SingleProposalStrategy):
    """Aging evolution (Real et al., AAAI 2019, algorithm 1).

    The parent is the best candidate of a random sample of the population; a child differs from its parent in one
    variable; each new candidate removes the oldest.
    """

    def __init__(self, task: Task, settings: EvolutionSettings) -> None:
        super().__init__(task, settings)
        self._population: deque[tuple[Architecture, Values]] = deque(maxlen=settings.population)

    def learn(self, architecture: Architecture, values: Values) -> None:
        self._population.append((architecture, values))

    def propose(self, rng: random.Random) -> Architecture:
        if len(self._population) < self.settings.population:
            return self.space.sample(rng)
        tournament = dict(rng.sample(list(self._population), self.settings.parents))
        ((parent, _),) = select_best(tournament, 1)
        return neighbour(self.space, parent, rng)
