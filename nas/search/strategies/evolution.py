"""AutoFormer's evolution, with a surrogate that screens children."""

import random

import numpy as np

from nas.search.pareto import Values
from nas.search.space import Architecture
from nas.search.strategies.base import EvolutionConfig, Proposer, Task
from nas.search.strategies.selection import best
from nas.search.strategies.surrogate import BayesianLinearSurrogate

_BEFORE_SCREENING = 4
"""Told before a response surface has a say."""


class Evolution(Proposer):
    """Evolution as in AutoFormer (Chen et al., ICCV 2021, section 3.3), bounded, its children screened.

    The first generation is random. Each later one has as parents the best of all told so far; a child is a crossover of
    two parents, a mutation of one, or a fresh random architecture.

    Of `proposal_pool` children the one is proposed that would be best in one world that agrees with everything told so
    far (Thompson sampling); how much each objective counts is drawn anew each time.
    """

    def __init__(self, task: Task, evolution: EvolutionConfig) -> None:
        super().__init__(task)
        self._evolution = evolution
        self._generation: dict[Architecture, Values] = {}
        self._parents: dict[Architecture, Values] = {}
        self._surface = BayesianLinearSurrogate(self.space) if evolution.proposal_pool > 1 else None

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
        children = {self._child(rng): None for _ in range(self._evolution.proposal_pool)}
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
        if chance < self._evolution.crossover_fraction:
            return self.space.cross(rng.choice(parents), rng.choice(parents), rng)
        if chance < self._evolution.crossover_fraction + self._evolution.mutation_fraction:
            return self.space.mutate(rng.choice(parents), rng, self._evolution.mutation_probability)
        return self.space.sample(rng)
