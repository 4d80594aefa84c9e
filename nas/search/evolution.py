"""Evolution: AutoFormer's with a response surface, regularized evolution, and NSGA-II."""

import random
from collections import deque

import numpy as np

from nas.config import EvolutionConfig
from nas.pareto import Values, ranks
from nas.search.base import Proposer, Task
from nas.search.response import ResponseSurface
from nas.space import Architecture

_BEFORE_SCREENING = 4
"""Told before a response surface has a say."""


class Evolution(Proposer):
    """Evolution as in AutoFormer (Chen et al., ICCV 2021, section 3.3), bounded, its children screened.

    The first generation is random. Each later one has as parents the best of all told so far; a child is a crossover of
    two parents, a mutation of one, or a fresh random architecture.

    Of `screened` children the one is proposed that would be best in one world that agrees with everything told so far
    (Thompson sampling); how much each objective counts is drawn anew each time.
    """

    def __init__(self, task: Task, evolution: EvolutionConfig) -> None:
        super().__init__(task)
        self._evolution = evolution
        self._generation: dict[Architecture, Values] = {}
        self._parents: dict[Architecture, Values] = {}
        self._surface = ResponseSurface(self.space) if evolution.screened > 1 else None

    def learn(self, architecture: Architecture, values: Values) -> None:
        """Values count once their generation is complete; the best of all so far are the next one's parents."""
        if self._surface is not None:
            self._surface.tell(architecture, values)
        self._generation[architecture] = values
        if len(self._generation) < self._evolution.population:
            return
        known = self._parents | self._generation
        self._parents = dict(best(known, self._evolution.parents))
        self._generation = {}

    def propose(self, rng: random.Random) -> Architecture:
        surface = self._surface
        if surface is None or surface.count < _BEFORE_SCREENING:
            return self._child(rng)
        children = {self._child(rng): None for _ in range(self._evolution.screened)}
        new = [child for child in children if not self.is_known(child)]
        if not new:
            return next(iter(children))
        drawn = np.array(surface.draw(new, np.random.default_rng(rng.randrange(2**63))))
        weights = np.array([rng.expovariate(1.0) for _ in range(drawn.shape[1])])
        return new[int((drawn @ weights).argmax())]

    def _child(self, rng: random.Random) -> Architecture:
        """One child of those that are parents now; a random architecture while nobody is."""
        parents = list(self._parents)
        if not parents:
            return self.space.sample(rng)
        chance = rng.random()
        if chance < self._evolution.crossover_share:
            return self.space.cross(rng.choice(parents), rng.choice(parents), rng)
        if chance < self._evolution.crossover_share + self._evolution.mutation_share:
            return self.space.mutate(rng.choice(parents), rng, self._evolution.mutation_probability)
        return self.space.sample(rng)


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


def best(known: dict[Architecture, Values], count: int) -> list[tuple[Architecture, Values]]:
    """The best so many, best first: by front and crowding; of equal ones the smaller architecture."""
    entries = list(known.items())
    order = ranks([values for _, values in entries])
    places = sorted(range(len(entries)), key=lambda place: (order[place], entries[place][0]))
    return [entries[place] for place in places[:count]]
