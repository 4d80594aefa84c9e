"""What every strategy offers: ask for an architecture, tell its score. A strategy never runs anything.

What a strategy proposes depends on the space, the seed, the number of the proposal and the scores told before, so it
has no other state: a resumed search tells the stored scores again, in order, and goes on.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from nas.space import Architecture, SearchSpace
from nas.training import seed_from

_ATTEMPTS = 10
_NEIGHBOURS = 10
_NEIGHBOUR = 0.3  # probability of each gene to change
_ENUMERABLE = 200_000


class Strategy(ABC):
    """Proposes architectures that were not proposed before and can fit.

    Args:
        space: What may be chosen.
        seed: Same seed and same scores, same proposals.
        is_feasible: Whether an architecture fits the memory budget alone.
        first: Proposed first, where feasible and in the space.
    """

    def __init__(
        self,
        *,
        space: SearchSpace,
        seed: int,
        is_feasible: Callable[[Architecture], bool],
        first: Sequence[Architecture] = (),
    ) -> None:
        self.space = space
        self.seed = seed
        self.is_feasible = is_feasible
        self._first = [architecture for architecture in first if architecture in space]
        self._proposed: dict[Architecture, None] = {}

    def ask(self) -> Architecture | None:
        """The next architecture to score; None when every feasible one has been proposed."""
        rng = random.Random(seed_from(self.seed, "ask", len(self._proposed)))
        for architecture in self._first:
            if self._is_new(architecture):
                return self._remember(architecture)
        for _ in range(_ATTEMPTS):
            proposal = self.propose(rng)
            # A strategy that has converged repeats itself; a neighbour of what it wants says more than a random one.
            for architecture in (proposal, *(self.space.mutate(proposal, rng, _NEIGHBOUR) for _ in range(_NEIGHBOURS))):
                if self._is_new(architecture):
                    return self._remember(architecture)
        return self._any_new(rng)

    def tell(self, architecture: Architecture, score: float) -> None:
        """Learn the score (higher is better) of an architecture; also of one that an earlier session proposed."""
        self.mark_proposed(architecture)
        self.learn(architecture, score)

    def mark_proposed(self, architecture: Architecture) -> None:
        """Never propose this one again, whether its score is known or not."""
        self._proposed.setdefault(architecture)

    @abstractmethod
    def propose(self, rng: random.Random) -> Architecture:
        """One proposal, which may be known or infeasible."""

    @abstractmethod
    def learn(self, architecture: Architecture, score: float) -> None:
        """Take a score into account."""

    def _remember(self, architecture: Architecture) -> Architecture:
        self._proposed[architecture] = None
        return architecture

    def _is_new(self, architecture: Architecture) -> bool:
        return architecture not in self._proposed and self.is_feasible(architecture)

    def _any_new(self, rng: random.Random) -> Architecture | None:
        """A random new architecture; looks at all of them before it says that there is none."""
        if self.space.size <= _ENUMERABLE:
            everyone = list(self.space)
            rng.shuffle(everyone)
            candidates = iter(everyone)
        else:
            candidates = (self.space.sample(rng) for _ in range(_ENUMERABLE))
        found = next((architecture for architecture in candidates if self._is_new(architecture)), None)
        return None if found is None else self._remember(found)
