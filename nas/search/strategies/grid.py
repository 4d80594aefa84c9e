"""Grid search: coarse before fine."""

import itertools
import random
from collections.abc import Iterator, Sequence

from nas.search.pareto import Values
from nas.search.space import Architecture
from nas.search.strategies.base import Strategy, Task

_PASSED = 500
"""Places of the grid that are passed for one proposal in a space too large to look at all of it."""


class Grid(Strategy):
    """All architectures, coarse before fine: first the ends of every variable, then their middles, and so on."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._places = self._everyone()
        self._passed = 0

    def candidates(self, rng: random.Random) -> Iterator[Architecture]:
        del rng
        # Goes on where it was left: what it has passed is known, or does not fit. How far depends on the number of
        # proposals alone, so that one that takes the state of another comes to the same.
        while self.looks_at_all or self._passed < _PASSED * (len(self._proposed) + 1):
            place = next(self._places, None)
            if place is None:
                return
            self._passed += 1
            yield place

    def learn(self, architecture: Architecture, values: Values) -> None:
        del architecture, values

    def _everyone(self) -> Iterator[Architecture]:
        orders = [_coarse_first(variable.choices) for variable in self.space.variables]
        names = [variable.name for variable in self.space.variables]
        counts = sorted({count for order in orders for count, _ in order})
        for count in counts:
            # Those that have a value of this level, and none of a later one.
            known = [[value for level, value in order if level <= count] for order in orders]
            levels = [{value: level for level, value in order} for order in orders]
            for values in itertools.product(*known):
                if count in (level[value] for level, value in zip(levels, values, strict=True)):
                    yield self.space.decode(dict(zip(names, values, strict=True)))


def _coarse_first(choices: Sequence[int]) -> list[tuple[int, int]]:
    """Level and value of every choice: the ends have level 0, the middle 1, the middles of the halves 2."""
    found = {0: 0, len(choices) - 1: 0}
    gaps, level = [(0, len(choices) - 1)], 0
    while gaps:
        level += 1
        halves = []
        for start, stop in gaps:
            if stop - start > 1:
                middle = (start + stop) // 2
                found[middle] = level
                halves += [(start, middle), (middle, stop)]
        gaps = halves
    return [(level, choices[place]) for place, level in found.items()]
