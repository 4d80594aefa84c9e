"""Random search."""

import random

from nas.search.pareto import Values
from nas.search.space import Architecture
from nas.search.strategies.base import SingleProposalStrategy


class RandomSearch(SingleProposalStrategy):
    """Draws every variable uniformly."""

    def propose(self, rng: random.Random) -> Architecture:
        return self.space.sample(rng)

    def learn(self, architecture: Architecture, values: Values) -> None:
        del architecture, values
