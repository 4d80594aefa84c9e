"""Compare models that were trained with the same seeds: the mean of the paired differences, and how sure it is."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtr, stdtrit

LEVEL = 0.05
"""The probability that an interval misses; and that Holm's procedure finds any difference where there is none."""


@dataclass(frozen=True)
class PairedDifference:
    """The mean of the differences between two models over the seeds that both were trained with.

    The interval is that of Student's t over seeds: it says what other seeds would give on the same samples.

    Args:
        mean: The mean difference.
        half_width: Half the width of the interval with a confidence of 1 − `LEVEL`; None if fewer than two seeds, or
            equal differences, say nothing about it.
        p_value: The two-sided p-value of the difference; None in the same cases.
        count: The number of seeds.
    """

    mean: float
    half_width: float | None
    p_value: float | None
    count: int

    @classmethod
    def of(cls, scores: Sequence[float | None], others: Sequence[float | None]) -> "PairedDifference | None":
        """Return the difference of the first scores minus the others, which belong to the same seeds in order.

        Args:
            scores: The score of each seed; None where there is none.
            others: Those of the other model.

        Returns:
            The difference; None if no seed has both scores.
        """
        pairs = zip(scores, others, strict=False)
        values = [score - other for score, other in pairs if score is not None and other is not None]
        if not values:
            return None
        mean, count = statistics.fmean(values), len(values)
        deviation = statistics.stdev(values) if count > 1 else 0.0
        error = deviation / math.sqrt(count)
        # Differences that are equal but for rounding.
        if error <= 1e-12 * max(map(abs, values)):
            return cls(mean, None, None, count)
        half_width = -float(stdtrit(count - 1, LEVEL / 2)) * error
        return cls(mean, half_width, 2 * float(stdtr(count - 1, -abs(mean) / error)), count)


def holm(p_values: Sequence[float | None], level: float = LEVEL) -> list[bool]:
    """Return which of several differences are beyond chance, by the procedure of Holm.

    It keeps the probability of finding any difference where there is none (Scandinavian Journal of Statistics 6, 1979).

    Args:
        p_values: The p-value of each difference; None for one that was not tested, which still counts.
        level: That probability.
    """
    found = [False] * len(p_values)
    tested = [(p_value, index) for index, p_value in enumerate(p_values) if p_value is not None]
    for rank, (p_value, index) in enumerate(sorted(tested)):
        if p_value > level / (len(p_values) - rank):
            break
        found[index] = True
    return found
