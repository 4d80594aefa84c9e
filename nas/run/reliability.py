"""How far the answer of a search can be trusted, from what the search itself has measured."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import kendalltau, t

from nas.common.units import format_seconds
from nas.search.trial import Result, Stage

LEAST_TAU = 0.3
"""A rank correlation below this says that search scores did not predict the results of full training."""

_FEWEST = 3  # of whom a rank correlation says anything


@dataclass(frozen=True)
class Agreement:
    """Whether two stages put the same candidates in the same order.

    Args:
        cheaper: The stage of the one score.
        dearer: Of the other.
        count: Candidates that have both.
        tau: Kendall's tau-b; None for fewer than three candidates, or where all have one score.
    """

    cheaper: str
    dearer: str
    count: int
    tau: float | None


def agreement(cheaper: Sequence[Result], dearer: Sequence[Result]) -> Agreement:
    """Compare the scores of candidates that have a result at both stages.

    Args:
        cheaper: Results of one stage.
        dearer: Of another one.
    """
    scores = {result.trial: result.score for result in cheaper}
    pairs = [(scores[result.trial], result.score) for result in dearer if result.trial in scores]
    names = cheaper[0].stage if cheaper else "", dearer[0].stage if dearer else ""
    if len(pairs) < _FEWEST:
        return Agreement(*names, len(pairs), None)
    tau = float(kendalltau(*zip(*pairs, strict=True)).statistic)
    return Agreement(*names, len(pairs), None if math.isnan(tau) else tau)


@dataclass(frozen=True)
class Spread:
    """One architecture, trained with several seeds.

    Args:
        scores: One a seed.
    """

    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        return sum(self.scores) / len(self.scores)

    @property
    def deviation(self) -> float:
        """Standard deviation over seeds; 0 for one."""
        return float(np.std(self.scores, ddof=1)) if len(self.scores) > 1 else 0.0


def margin_over_seeds(first: Spread, second: Spread) -> tuple[float, float, float]:
    """Mean difference, and its 95 % interval by Welch's t; infinitely wide with one seed of either.

    So it is where all seeds of each come to the same: how much there is between seeds has not been seen then.
    """
    difference = first.mean - second.mean
    counts = len(first.scores), len(second.scores)
    if min(counts) < 2:
        return difference, -math.inf, math.inf
    shares = [spread.deviation**2 / len(spread.scores) for spread in (first, second)]
    error = math.sqrt(sum(shares))
    if error == 0.0:
        return difference, -math.inf, math.inf
    freedom = sum(shares) ** 2 / sum(share**2 / (count - 1) for share, count in zip(shares, counts, strict=True))
    half = float(t.ppf(0.975, freedom)) * error
    return difference, difference - half, difference + half


@dataclass(frozen=True)
class ReliabilityReport:
    """What is known about the answer of a search.

    Args:
        metric: The objective.
        agreements: Of each stage with the next dearer one, and of search scores with full training.
        best: The best, trained with seeds that played no part in choosing it, so that none is there for its luck; with
            the search's own alone where there are no others.
        default: The family's default, likewise; None if it was not trained.
        phases: Seconds of the budget by phase.
        trainings: Results by stage.
        title: Of the family.
    """

    metric: str
    agreements: tuple[Agreement, ...]
    best: Spread
    default: Spread | None
    phases: Mapping[str, float]
    trainings: Mapping[str, int]
    title: str = "PMF"

    def lines(self) -> list[str]:
        """For people, one statement a line."""
        said = [verdict(entry) for entry in self.agreements]
        said.append(f"best: {_spread_text(self.best, self.metric)}")
        if self.default is not None:
            said.append(f"{self.title}'s default: {_spread_text(self.default, self.metric)}")
            difference, low, high = margin_over_seeds(self.best, self.default)
            if math.isfinite(low):
                certain = "" if low > 0 or high < 0 else ": not more than chance between seeds can explain"
                said.append(
                    f"the best over the default: {difference:+.4f} {self.metric} on validation, 95 % interval "
                    f"{low:+.4f} to {high:+.4f}{certain}"
                )
            if difference < 0:
                said.append(
                    f"by these seeds {self.title}'s default is better than what the search has found; its model is in "
                    "the run's folder default"
                )
        total = sum(self.phases.values())
        if total:
            shares = ", ".join(
                f"{name} {format_seconds(seconds)} ({seconds / total:.0%})" for name, seconds in self.phases.items()
            )
            counts = ", ".join(f"{count} {stage}" for stage, count in self.trainings.items())
            said.append(f"the time went to: {shares}; results: {counts}")
        return said

    def as_dict(self) -> dict[str, Any]:
        """Plain values; `margin` is the best over the default: difference and 95 % interval over seeds."""
        margin = None if self.default is None else margin_over_seeds(self.best, self.default)
        finite = None if margin is None or not math.isfinite(margin[1]) else list(margin)
        return {**asdict(self), "margin": finite}


def gathered(
    metric: str,
    results: Mapping[Stage, Sequence[Result]],
    *,
    best: Sequence[Result],
    default: Sequence[Result],
    phases: Mapping[str, float],
    title: str = "PMF",
) -> ReliabilityReport:
    """The evidence that a search has gathered.

    Args:
        metric: The objective.
        results: Of the search, by stage.
        best: The best, trained with further seeds, or its one full training.
        default: The family's default, likewise; nothing if it was not trained.
        phases: Seconds of the budget by phase.
        title: Of the family.
    """
    pairs: list[tuple[Stage, Stage]] = [("one_shot", "short"), ("short", "full"), ("one_shot", "full")]
    return ReliabilityReport(
        metric=metric,
        agreements=tuple(
            agreement(results[cheaper], results[dearer])
            for cheaper, dearer in pairs
            if results[cheaper] and results[dearer]
        ),
        best=Spread(tuple(result.score for result in best)),
        default=Spread(tuple(result.score for result in default)) if default else None,
        phases=phases,
        trainings={stage: len(entries) for stage, entries in results.items()},
        title=title,
    )


def _spread_text(spread: Spread, metric: str) -> str:
    count = len(spread.scores)
    if count == 1:
        return f"validation {metric} {spread.mean:.4f}, with one seed; how much of that is luck is not known"
    return (
        f"validation {metric} {spread.mean:.4f} over {count} further seeds, standard deviation {spread.deviation:.4f}"
    )


def verdict(found: Agreement) -> str:
    """In plain words, what a rank correlation means for whoever relies on the search."""
    stages = {"one_shot": "inherited weights", "short": "short training", "full": "full training"}
    cheaper, dearer = stages.get(found.cheaper, found.cheaper), stages.get(found.dearer, found.dearer)
    if found.tau is None:
        return f"{cheaper} against {dearer}: too few candidates have both ({found.count}) to say whether they agree"
    said = f"{cheaper} against {dearer}: Kendall's tau {found.tau:.2f} over {found.count} candidates"
    if found.tau >= LEAST_TAU:
        return said
    return (
        f"{said}: the order by {cheaper} did not predict the order by {dearer}; do not rely on candidates that were "
        "left behind being worse"
    )
