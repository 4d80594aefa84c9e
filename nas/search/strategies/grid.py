"""Grid search, coarse before fine."""

import itertools
import random
from collections.abc import Iterator, Sequence

from nas.search.pareto import Values
from nas.search.space import Architecture
from nas.search.strategies.base import EvolutionSettings, Strategy, Task

_VISITS_PER_PROPOSAL = 500
"""Limit on grid points visited per proposal in a space too large to enumerate."""


class Grid(Strategy):
    """Visits all architectures, coarse before fine: both ends of every variable first, then the middles, and so on."""

    def __init__(self, task: Task, settings: EvolutionSettings) -> None:
        super().__init__(task, settings)
        self._points = self._all_points()
        self._visited_count = 0

    def candidates(self, rng: random.Random) -> Iterator[Architecture]:
        del rng
        # Resume after the last visited point: all earlier ones were proposed or do not fit. The limit depends only on
        # the number of proposals, so that a resumed search visits the same points.
        while self.is_exhaustive or self._visited_count < _VISITS_PER_PROPOSAL * (self.proposed_count + 1):
            point = next(self._points, None)
            if point is None:
                return
            self._visited_count += 1
            yield point

    def learn(self, architecture: Architecture, values: Values) -> None:
        del architecture, values

    def _all_points(self) -> Iterator[Architecture]:
        orders = [_coarse_first(variable.choices) for variable in self.space.variables]
        names = [variable.name for variable in self.space.variables]
        finest_levels = sorted({level for order in orders for level, _ in order})
        for finest in finest_levels:
            # Points with at least one value of this level and none of a finer one.
            allowed = [[value for level, value in order if level <= finest] for order in orders]
            levels = [{value: level for level, value in order} for order in orders]
            for values in itertools.product(*allowed):
                if finest in (level[value] for level, value in zip(levels, values, strict=True)):
                    yield self.space.decode(dict(zip(names, values, strict=True)))


def _coarse_first(choices: Sequence[int]) -> list[tuple[int, int]]:
    """Return (level, value) of every choice: both ends have level 0, the middle 1, the middles of the halves 2."""
    level_of = {0: 0, len(choices) - 1: 0}
    gaps, level = [(0, len(choices) - 1)], 0
    while gaps:
        level += 1
        halves = []
        for start, stop in gaps:
            if stop - start > 1:
                middle = (start + stop) // 2
                level_of[middle] = level
                halves += [(start, middle), (middle, stop)]
        gaps = halves
    return [(level, choices[index]) for index, level in level_of.items()]
