"""NSGA-II."""

import random

from nas.search.pareto import Values
from nas.search.space import Architecture
from nas.search.space.operators import cross, mutate
from nas.search.strategies.base import EvolutionSettings, SingleProposalStrategy, Task
from nas.search.strategies.selection import select_best


class NSGA2(SingleProposalStrategy):
    """NSGA-II (Deb et al., IEEE TEC 2002): elitist generations by front and crowding, parents by binary tournament.

    A child is a uniform crossover in which one variable is redrawn on average. With one objective this is an elitist
    genetic algorithm.
    """

    def __init__(self, task: Task, settings: EvolutionSettings) -> None:
        super().__init__(task, settings)
        self._generation: dict[Architecture, Values] = {}
        self._survivors: dict[Architecture, Values] = {}
        self._parents: list[Architecture] = []

    def learn(self, architecture: Architecture, values: Values) -> None:
        self._generation[architecture] = values
        if len(self._generation) < self.settings.population:
            return
        best = select_best(self._survivors | self._generation, self.settings.population)
        self._survivors, self._generation = dict(best), {}
        self._parents = [architecture for architecture, _ in best]

    def propose(self, rng: random.Random) -> Architecture:
        if not self._parents:
            return self.space.sample(rng)
        # Parents are sorted, best first, so the smaller index wins the tournament.
        indices = range(len(self._parents))
        first, second = (self._parents[min(rng.choice(indices), rng.choice(indices))] for _ in range(2))
        probability = 1 / len(self.space.variables)
        return mutate(self.space, cross(self.space, first, second, rng), rng, probability)
