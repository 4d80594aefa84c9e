"""Promotion: scores of one stage decide which candidates enter the next stage.

All candidates are scored with the weights of the supernet (`one_shot`), the promising ones are trained for a while
(`short`), and the best of those are trained completely. Scores of different stages are never compared.
"""

import heapq
import math
from collections.abc import Callable

from nas.search.objectives import Objectives
from nas.search.space import Architecture
from nas.search.trial import Result


class PromotionQueue:
    """Candidates that are due for short training, and the order of full training.

    With a single objective and no constraints a heap makes `next_training` fast for many candidates.

    Args:
        objectives: The objectives that order results.
        round_size: The number of scored candidates in a round.
        promotion_fraction: The fraction of every round that receives short training.
    """

    def __init__(self, objectives: Objectives, *, round_size: int, promotion_fraction: float) -> None:
        self._objectives = objectives
        self._round_size = round_size
        self._promotion_fraction = promotion_fraction
        self._scored: dict[int, Result] = {}
        self._trained: dict[int, Result] = {}
        self._taken: set[int] = set()
        self._best_first: list[tuple[float, int]] = []

    def add_scored(self, result: Result) -> None:
        """Add a result of the `one_shot` stage."""
        self._scored[result.trial] = result
        heapq.heappush(self._best_first, (-result.score, result.trial))

    def add_trained(self, result: Result) -> None:
        """Add a result of the `short` stage."""
        self._trained[result.trial] = result
        self.take(result.trial)

    def take(self, trial: int) -> None:
        """Remove a candidate from the queue: its short training is running, finished or has failed."""
        self._taken.add(trial)

    def give_back(self, trial: int) -> None:
        """Return a candidate to the queue, because its short training was stopped."""
        self._taken.discard(trial)
        if trial in self._scored:
            heapq.heappush(self._best_first, (-self._scored[trial].score, trial))

    def next_training(self, *, is_complete: bool, fits: Callable[[Architecture], bool]) -> Result | None:
        """Return the best candidate due for short training that was not taken, or None.

        Args:
            is_complete: Whether all candidates have been scored, so that an incomplete last round counts.
            fits: Callback that returns whether an architecture fits the memory budget; an architecture that does not
                fit is not checked again.
        """
        rounds = len(self._scored) / self._round_size
        per_round = self._round_size * self._promotion_fraction
        if len(self._taken) >= round(per_round * (rounds if is_complete else math.floor(rounds))):
            return None
        if self._objectives.costs or self._objectives.constraints:
            order = self._objectives.ranked(list(self._scored.values()))
            waiting = (result for result in order if result.trial not in self._taken)
            return next((result for result in waiting if fits(result.architecture)), None)
        while self._best_first:
            trial = self._best_first[0][1]
            if trial not in self._taken and fits(self._scored[trial].architecture):
                return self._scored[trial]
            heapq.heappop(self._best_first)
        return None

    def promotion_order(self) -> list[Result]:
        """Return all candidates in the order of full training.

        Candidates with a `short` score come before those with only a `one_shot` score; candidates that are known to
        break a constraint come last.
        """
        rest = [result for trial, result in self._scored.items() if trial not in self._trained]
        order = [*self._objectives.ranked(list(self._trained.values())), *self._objectives.ranked(rest)]
        return sorted(order, key=lambda result: not self._objectives.is_eligible(result))
