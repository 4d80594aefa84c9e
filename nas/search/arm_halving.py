"""Choose an arm of a search by successive halving, with seeds of one training as the resource. Imports no torch.

Jamieson & Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization", AISTATS 2016, algorithm
1: all arms of a rung are trained equally long, the better half twice as long in the next, and every rung has an equal
part of the budget. Here the last arm has the part of one more rung, and what the others have left, for its search.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

MAX_SEEDS = 4
"""The largest number of seeds of a rung: more tell little that the search will not tell better."""


@dataclass(frozen=True)
class ArmScores:
    """What is known of an arm, all on validation and higher is better.

    Args:
        default: The scores of complete trainings of the family's default, one for each seed, in the order of the seeds;
            minus infinity for one that failed or breaks a constraint.
        linear: The score of the linear classifier on the frozen encoders; None if there is none.
    """

    default: Sequence[float]
    linear: float | None = None

    def value(self, seeds: int) -> tuple[float, float]:
        """Return what the arm is ranked by: its better answer, then the default, which differs between families.

        The linear classifier depends on the encoders only, so that it alone cannot choose a family.

        Args:
            seeds: The number of seeds to count, so that arms are compared by equally many.
        """
        counted = self.default[:seeds]
        default = -math.inf if not counted or -math.inf in counted else mean(counted)
        return max(default, -math.inf if self.linear is None else self.linear), default


def rung_count(arms: int) -> int:
    """Return the number of rungs until one arm is left.

    Args:
        arms: The number of arms of the first rung.
    """
    return math.ceil(math.log2(arms)) if arms > 1 else 0


def seeds_of(rung: int) -> int:
    """Return the number of seeds that every arm of a rung has been trained with at its end.

    Args:
        rung: The index of the rung, from 0.
    """
    return min(1 << rung, MAX_SEEDS)


def rung_end(rung: int, rungs: int, total_seconds: float) -> float:
    """Return the end of a rung in seconds of the budget; every rung and the search of the last arm have equal parts.

    Args:
        rung: The index of the rung, from 0.
        rungs: The number of rungs; see `rung_count`.
        total_seconds: The time budget; infinite without one.
    """
    return total_seconds * (rung + 1) / (rungs + 1)


def better_half(scores: Mapping[str, ArmScores], seeds: int) -> list[str]:
    """Return the better half of the arms of a rung, rounded up, the best first; of equal ones the earlier.

    Args:
        scores: The scores of each arm of the rung, in the order of the search file.
        seeds: The number of seeds that the rung asks for. Where the time was over before all arms had them, the arms
            are compared by as many as all have.
    """
    common = min([seeds, *(len(entry.default) for entry in scores.values())])
    names = list(scores)
    values = {name: scores[name].value(common) for name in names}
    ranked = sorted(names, key=lambda name: (tuple(-value for value in values[name]), names.index(name)))
    return ranked[: math.ceil(len(ranked) / 2)]
