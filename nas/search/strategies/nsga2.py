"""NSGA-II."""

import random

from nas.search.pareto import Values
from nas.search.space import Architecture
from nas.search.strategies.base import EvolutionConfig, Proposer, Task
from nas.search.strategies.selection import best


class NSGA2(Proposer):
    """NSGA-II (Deb et al., IEEE TEC 2002): generations, elitist by front and crowding, parents by binary tournament.

    Uniform crossover, then one variable is redrawn on average. With one objective an elitist genetic algorithm.
    """

    def __init__(self, task: Task, evolution: EvolutionConfig) -> None:
        super().__init__(task)
        self._evolution = evolution
        self._generation: dict[Architecture, Values] = {}
        self._parents: list[Architecture] = []
        self._known: dict[Architecture, Values] = {}

    def learn(self, architecture: Architecture, values: Values) -> None:
        self._generation[architecture] = values
        if len(self._generation) < self._evolution.population:
            return
        chosen = best(self._known | self._generation, self._evolution.population)
        self._known, self._generation = dict(chosen), {}
        self._parents = [architecture for architecture, _ in chosen]

    def propose(self, rng: random.Random) -> Architecture:
        if not self._parents:
            return self.space.sample(rng)
        # Parents stand in their order, so the one that stands before is the better one.
        places = range(len(self._parents))
        first, second = (self._parents[min(rng.choice(places), rng.choice(places))] for _ in range(2))
        probability = 1 / len(self.space.variables)
        return self.space.mutate(self.space.cross(first, second, rng), rng, probability)
