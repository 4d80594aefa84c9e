"""Choose a learning rate from a grid, with as few trainings as needed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class RateChoice:
    """The outcome of a choice.

    Args:
        best: The index of the best learning rate; None if the trainings of all that were tried failed.
        tried: The number of learning rates that were tried.
    """

    best: int | None
    tried: int


def choose_rate(count: int, train: Callable[[Sequence[int]], Mapping[int, float]]) -> RateChoice:
    """Try the two learning rates in the middle, then two more on the better side, until none of them is better.

    The result is the best of the whole grid if scores rise to it and fall beyond it. Two are always trained at a time,
    because the choice must not depend on the number of workers.

    Args:
        count: The number of learning rates in the grid, in increasing order.
        train: Function that trains with the learning rates of the given indices, unless that has been done, and returns
            the scores of those that did not fail.
    """
    tried = range(max(count // 2 - 1, 0), count // 2 + 1)
    while True:
        scores = train(tried)
        # If all failed, lower ones may not.
        best = max(scores, key=lambda index: (scores[index], -index), default=tried.start)
        if best == tried.start > 0:
            tried = range(max(tried.start - 2, 0), tried.stop)
        elif scores and best == tried.stop - 1 < count - 1:
            tried = range(tried.start, min(tried.stop + 2, count))
        else:
            return RateChoice(best if scores else None, len(tried))
