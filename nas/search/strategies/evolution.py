"""AutoFormer's evolution, with a surrogate that selects among children."""

import random

import numpy as np

from nas.search.pareto import Values
from nas.search.space import Architecture
from nas.search.space.operators import cross, mutate
from nas.search.strategies.base import EvolutionSettings, SingleProposalStrategy, Task
from nas.search.strategies.selection import select_best
from nas.search.strategies.surrogate import BayesianLinearSurrogate

_MIN_SURROGATE_SCORES = 4
"""The number of scores before the surrogate is used."""


class Evolution(SingleProposalStrategy):
    """Evolution as in AutoFormer (Chen et al., ICCV 2021, section 3.3), with a surrogate that selects among children.

    The first generation is random. The parents of each later generation are the best candidates so far. A child is a
    crossover of two parents, a mutation of one, or a random architecture.

    Of `proposal_pool` children, the strategy proposes the one that is best under one sample from the surrogate's
    posterior (Thompson sampling). The weights of the objectives are drawn again for each proposal.
    """

    def __init__(self, task: Task, settings: EvolutionSettings) -> None:
        super().__init__(task, settings)
        self._generation: dict[Architecture, Values] = {}
        self._parents: dict[Architecture, Values] = {}
        self._surrogate = BayesianLinearSurrogate(self.space) if settings.proposal_pool > 1 else None

    def learn(self, architecture: Architecture, values: Values) -> None:
        """Add the values to the current generation; a complete generation determines the next parents."""
        if self._surrogate is not None:
            self._surrogate.observe(architecture, values)
        self._generation[architecture] = values
        if len(self._generation) < self.settings.population:
            return
        self._parents = dict(select_best(self._parents | self._generation, self.settings.parents))
        self._generation = {}

    def propose(self, rng: random.Random) -> Architecture:
        surrogate = self._surrogate
        if surrogate is None or surrogate.count < _MIN_SURROGATE_SCORES:
            return self._child(rng)
        children = {self._child(rng): None for _ in range(self.settings.proposal_pool)}
        new = [child for child in children if not self.was_proposed(child)]
        if not new:
            return next(iter(children))
        drawn = np.array(surrogate.draw(new, np.random.default_rng(rng.randrange(2**63))))
        weights = np.array([rng.expovariate(1.0) for _ in range(drawn.shape[1])])
        return new[int((drawn @ weights).argmax())]

    def _child(self, rng: random.Random) -> Architecture:
        """Return one child of the current parents; a random architecture before the first generation is complete."""
        parents = list(self._parents)
        if not parents:
            return self.space.sample(rng)
        settings = self.settings
        chance = rng.random()
        if chance < settings.crossover_fraction:
            return cross(self.space, rng.choice(parents), rng.choice(parents), rng)
        if chance < settings.crossover_fraction + settings.mutation_fraction:
            return mutate(self.space, rng.choice(parents), rng, settings.mutation_probability)
        return self.space.sample(rng)
