"""The time in which one system reaches the answer of another, with an interval over seeds.

The answer at a time is the configuration that the validation scores known by then prefer. Its value is the mean score
of trainings with fresh seeds that had no part in the choice.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.bootstrap import DRAWS, Difference

Fresh = Mapping[str, Sequence[float]]
"""The scores of each configuration with fresh seeds."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Known:
    """A validation score of a configuration, higher is better.

    Args:
        seconds: The time at which it became known.
        configuration: The name of the configuration.
        score: The score.
    """

    seconds: float
    configuration: str
    score: float


@dataclass(frozen=True)
class Answer:
    """An answer and the time from which it was the answer.

    Args:
        seconds: The time.
        configuration: The name of the configuration.
    """

    seconds: float
    configuration: str


def answers(known: Sequence[Known], worth: Callable[[Sequence[float]], float], seconds: float) -> list[Answer]:
    """Return the answers in their order, each with the time from which it was preferred.

    Args:
        known: All scores.
        worth: What several scores of one configuration are worth: their mean where they are trainings with several
            seeds, their maximum where they are those of one training after each epoch.
        seconds: The end; later scores do not count.
    """
    scores: dict[str, list[float]] = {}
    found: list[Answer] = []
    counted = sorted((entry for entry in known if entry.seconds <= seconds), key=attrgetter("seconds"))
    for time, entries in groupby(counted, key=attrgetter("seconds")):
        for entry in entries:
            scores.setdefault(entry.configuration, []).append(entry.score)
        best = max(scores, key=lambda name: worth(scores[name]))  # of equals the one that was known first
        if not found or found[-1].configuration != best:
            found.append(Answer(time, best))
    return found


@dataclass(frozen=True)
class Pair:
    """A search and a run of another system with the same seed.

    Args:
        answers: The answers of the search.
        fresh: The fresh scores of each of them.
        target: The fresh scores of the other system's last answer.
    """

    answers: Sequence[Answer]
    fresh: Fresh
    target: Sequence[float]


def speed_up(pairs: Sequence[Pair], seconds: float, *, seed: int, draws: int = DRAWS) -> Difference:
    """Return the mean over seeds of the other system's time divided by that in which the search reaches its answer.

    A search that never reaches it counts as 0. Pairs are drawn with replacement, and within each the fresh scores of
    every configuration.

    Args:
        pairs: The pairs, at least one.
        seconds: The time of the other system.
        seed: The seed of the draws.
        draws: The number of draws.
    """
    return _over_pairs(pairs, lambda pair, values, target: _ratios(pair.answers, values, target, seconds), seed, draws)


def lead(pairs: Sequence[Pair], *, seed: int, draws: int = DRAWS) -> Difference:
    """Return the mean over seeds of the value of the search's last answer minus that of the other system's.

    Args:
        pairs: The pairs, at least one.
        seed: The seed of the draws.
        draws: The number of draws.
    """
    return _over_pairs(pairs, lambda pair, values, target: values[pair.answers[-1].configuration] - target, seed, draws)


_Compare = Callable[[Pair, Mapping[str, Floats], Floats], Floats]


def _over_pairs(pairs: Sequence[Pair], compare: _Compare, seed: int, draws: int) -> Difference:
    rng = np.random.default_rng(seed)
    value = np.mean([compare(pair, *_means(pair, None, 1)) for pair in pairs])
    total = np.zeros(draws)
    for _ in pairs:  # each place in a draw has a pair and fresh scores of its own
        found = np.stack([compare(pair, *_means(pair, rng, draws)) for pair in pairs])
        total += found[rng.integers(len(pairs), size=draws), np.arange(draws)]
    return Difference(float(value), total / len(pairs))


def _means(pair: Pair, rng: np.random.Generator | None, draws: int) -> tuple[dict[str, Floats], Floats]:
    """Return the mean of the fresh scores of each configuration and of the target in every draw, each (draws,)."""

    def drawn(scores: Sequence[float]) -> Floats:
        values = np.array(scores, dtype=np.float64)
        if rng is None:
            return np.full(draws, values.mean())
        means: Floats = values[rng.integers(len(values), size=(draws, len(values)))].mean(axis=1)
        return means

    names = [answer.configuration for answer in pair.answers]
    return {name: drawn(pair.fresh[name]) for name in names}, drawn(pair.target)


def _ratios(found: Sequence[Answer], values: Mapping[str, Floats], target: Floats, seconds: float) -> Floats:
    """Return the time divided by that of the first answer which is worth the target in every draw, (draws,)."""
    ratios = np.zeros(len(target))
    for answer in reversed(found):
        ratios = np.where(values[answer.configuration] >= target - _ROUNDING, seconds / answer.seconds, ratios)
    return ratios


_ROUNDING = 1e-9  # means of equal scores differ by rounding
