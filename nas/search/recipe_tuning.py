"""Choose a setting of the recipe by successive halving over settings and seeds. Imports no torch.

Every setting is trained with one seed; the better ones are trained with more seeds, until two are left (Jamieson &
Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization", AISTATS 2016, with seeds as the
resource). Trainings are complete: the number of steps is one of the things to choose.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean, stdev

Scores = Mapping[tuple[int, int], float | None]
"""The validation metric of trainings by setting and seed, higher is better; None for a training that failed."""


@dataclass(frozen=True)
class RecipeSetting:
    """Factors that change a recipe.

    Args:
        rate: The factor of the learning rates of prompts, mappings and encoders.
        classifier_rate: The factor of the learning rate of classifiers.
        weight_decay: The factor of the weight decay.
        steps: The factor of the number of steps of a full training.
    """

    rate: float = 1.0
    classifier_rate: float = 1.0
    weight_decay: float = 1.0
    steps: float = 1.0

    def __str__(self) -> str:
        parts = (
            f"{name} × {value:g}"
            for name, value in (
                ("learning rates", self.rate if self.rate == self.classifier_rate else 1.0),
                ("learning rates of prompts and mappings", 1.0 if self.rate == self.classifier_rate else self.rate),
                ("learning rate of classifiers", 1.0 if self.rate == self.classifier_rate else self.classifier_rate),
                ("weight decay", self.weight_decay),
                ("steps", self.steps),
            )
            if value != 1.0
        )
        return ", ".join(parts) or "as configured"

    def full_steps(self, count: int) -> int:
        """Return the number of steps of a full training.

        Args:
            count: The number without this setting.
        """
        return max(1, round(count * self.steps))


AS_CONFIGURED = RecipeSetting()

SETTINGS: Sequence[RecipeSetting] = (
    AS_CONFIGURED,
    RecipeSetting(rate=10),
    RecipeSetting(rate=3, classifier_rate=3),
    RecipeSetting(rate=1 / 3, classifier_rate=1 / 3),
    RecipeSetting(steps=2),
    RecipeSetting(rate=10, classifier_rate=3),
    RecipeSetting(rate=10, steps=2),
    RecipeSetting(rate=3, classifier_rate=3, weight_decay=1 / 3),
    RecipeSetting(rate=3, classifier_rate=3, steps=2),
)
"""The settings that are tried, the likeliest first: a phase that is cut short has seen those. Those that could fail for
the same reason, such as a large number of steps, are apart: consecutive failures of one cause end a search."""

RUNGS: Sequence[tuple[int, int]] = ((len(SETTINGS), 1), (4, 2), (2, 4))
"""The number of settings of each rung, and the number of seeds with which each of them is trained."""

TRAININGS = RUNGS[0][0] * RUNGS[0][1] + sum(size * (count - before) for (_, before), (size, count) in pairwise(RUNGS))
"""The number of trainings of all rungs: a member of a rung has the trainings of the rung before."""


def next_trainings(scores: Scores, rungs: Sequence[tuple[int, int]] = RUNGS) -> list[tuple[int, int]]:
    """Return the settings and seeds of the rung that comes next and are not trained yet; empty after the last rung.

    Args:
        scores: The trainings so far.
        rungs: The rungs.
    """
    return _missing(scores, _climb(scores, rungs))


def choose_setting(scores: Scores, rungs: Sequence[tuple[int, int]] = RUNGS) -> int:
    """Return the best setting by what has been trained so far; 0, the recipe as configured, if nothing has.

    The settings of the last complete rung are compared by the seeds that all of them have. Among settings whose mean is
    within one standard error of the best, the one whose seeds differ least wins: what is compared afterwards is then
    told apart more easily.

    Args:
        scores: The trainings so far.
        rungs: The rungs.
    """
    members, count = _climb(scores, rungs)
    if _missing(scores, (members, count)):
        index = next(index for index, rung in enumerate(rungs) if rung[1] == count)
        if index:  # the rung before is complete, and all of this one's members have been in it
            count = rungs[index - 1][1]
        else:
            members = [member for member in members if (member, 0) in scores]
    ranked = _ranked(scores, members, count)
    if not ranked or _mean(scores, ranked[0], count) == -math.inf:
        return 0
    best = ranked[0]
    bound = _mean(scores, best, count) - _spread(scores, best, count) / math.sqrt(count)
    equals = [member for member in ranked if _mean(scores, member, count) >= bound]
    return min(equals, key=lambda member: (_spread(scores, member, count), ranked.index(member)))


def _climb(scores: Scores, rungs: Sequence[tuple[int, int]]) -> tuple[list[int], int]:
    """Return the members of the first rung that is not complete, or of the last one, and its number of seeds."""
    members = list(range(rungs[0][0]))
    for size, count in rungs[:-1]:
        members = members[:size]
        if _missing(scores, (members, count)):
            return members, count
        members = _ranked(scores, members, count)
    size, count = rungs[-1]
    return members[:size], count


def _missing(scores: Scores, rung: tuple[Sequence[int], int]) -> list[tuple[int, int]]:
    members, count = rung
    return [(member, seed) for seed in range(count) for member in members if (member, seed) not in scores]


def _ranked(scores: Scores, members: Sequence[int], count: int) -> list[int]:
    """Return the members from the best mean to the worst; of equal ones the likelier first."""
    return sorted(members, key=lambda member: (-_mean(scores, member, count), member))


def _values(scores: Scores, member: int, count: int) -> list[float]:
    found = [scores.get((member, seed)) for seed in range(count)]
    return [-math.inf if value is None else value for value in found]


def _mean(scores: Scores, member: int, count: int) -> float:
    values = _values(scores, member, count)
    return -math.inf if -math.inf in values else mean(values)


def _spread(scores: Scores, member: int, count: int) -> float:
    values = _values(scores, member, count)
    return stdev(values) if count > 1 and -math.inf not in values else 0.0
