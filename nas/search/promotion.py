"""Who is promoted: scores of one stage decide who enters the next, and are never mixed with another's.

Everyone is scored with inherited weights; the promising are trained for a while; the best of those in full.
"""

import heapq
import math
from collections.abc import Callable

from nas.search.objectives import Objectives
from nas.search.space import Architecture
from nas.search.trial import Result


class PromotionQueue:
    """Knows the scores so far, and who is due to be trained; of one objective it says so as fast when there are many.

    Args:
        objectives: The order of results.
        round_size: Scored candidates of a round.
        promotion_fraction: The share of every round that is trained briefly.
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
        """Take an inherited score into account."""
        self._scored[result.trial] = result
        heapq.heappush(self._best_first, (-result.score, result.trial))

    def add_trained(self, result: Result) -> None:
        """Take a score after training into account."""
        self._trained[result.trial] = result
        self.take(result.trial)

    def take(self, trial: int) -> None:
        """Promote no more: the candidate is being trained, was trained, or failed to train."""
        self._taken.add(trial)

    def give_back(self, trial: int) -> None:
        """Whose training was stopped is due again."""
        self._taken.discard(trial)
        if trial in self._scored:
            heapq.heappush(self._best_first, (-self._scored[trial].score, trial))

    def next_training(self, *, is_complete: bool, fits: Callable[[Architecture], bool]) -> Result | None:
        """The candidate to be trained for a while next, or None while nobody is due: the best that was not taken.

        Args:
            is_complete: Nobody else will be scored, so a last incomplete round counts.
            fits: Whether an architecture fits the memory budget; asked again for nobody who did not.
        """
        rounds = len(self._scored) / self._round_size
        share = self._round_size * self._promotion_fraction
        if len(self._taken) >= round(share * (rounds if is_complete else math.floor(rounds))):
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
        """Who is to be trained in full, first to last: by trained score, and after those by inherited score.

        Who is known to break a bound comes after all others.
        """
        rest = [result for trial, result in self._scored.items() if trial not in self._trained]
        order = [*self._objectives.ranked(list(self._trained.values())), *self._objectives.ranked(rest)]
        return sorted(order, key=lambda result: not self._objectives.is_eligible(result))
