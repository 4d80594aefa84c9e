"""Report how reliable the result of a search is, from measurements of the search itself."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import kendalltau, t

from nas.common.units import format_seconds
from nas.run.progress_lines import PHASE_TITLES, STAGE_NOUNS, counts_text, metric_title
from nas.search.metric_registry import METRICS
from nas.search.trial import Result, Stage

MIN_TAU = 0.3
"""Below this rank correlation, the scores of one stage did not predict those of the other."""

_MIN_CANDIDATES = 3
"""The smallest number of candidates for a meaningful rank correlation."""


@dataclass(frozen=True)
class Agreement:
    """The agreement between two stages in their ranking of the same candidates.

    Args:
        cheaper: The cheaper stage.
        dearer: The more expensive stage.
        count: The number of candidates with both scores.
        tau: Kendall's tau-b; None for fewer than three candidates, or if all have the same score at one stage.
    """

    cheaper: Stage
    dearer: Stage
    count: int
    tau: float | None


def agreement(cheaper: Stage, dearer: Stage, results: Mapping[Stage, Sequence[Result]]) -> Agreement:
    """Compare the rankings of the candidates that have a score at both stages.

    Args:
        cheaper: The cheaper stage.
        dearer: The more expensive stage.
        results: The results of each stage.
    """
    scores = {result.trial: result.score for result in results[cheaper]}
    pairs = [(scores[result.trial], result.score) for result in results[dearer] if result.trial in scores]
    if len(pairs) < _MIN_CANDIDATES:
        return Agreement(cheaper, dearer, len(pairs), None)
    tau = float(kendalltau(*zip(*pairs, strict=True)).statistic)
    return Agreement(cheaper, dearer, len(pairs), None if math.isnan(tau) else tau)


@dataclass(frozen=True)
class Spread:
    """The scores of one architecture over several seeds; higher is better, whatever the direction of the metric.

    Args:
        scores: The score of each seed.
    """

    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return sum(self.scores) / len(self.scores)

    @property
    def deviation(self) -> float:
        """The standard deviation over seeds; 0 for one seed."""
        return float(np.std(self.scores, ddof=1)) if len(self.scores) > 1 else 0.0


Margin = tuple[float, float, float]
"""A difference, and the lower and upper end of its 95 % interval."""


def margin_over_value(spread: Spread, value: float) -> Margin:
    """Return the difference of a mean and a fixed value and its 95 % interval by Student's t-test.

    The interval is infinite for one seed, or if the seeds do not vary: their variation is then unknown.

    Args:
        spread: The scores of one architecture.
        value: The score of a model that does not depend on a seed.
    """
    difference, count = spread.mean - value, len(spread.scores)
    if spread.deviation == 0.0:
        return difference, -math.inf, math.inf
    half = float(t.ppf(0.975, count - 1)) * spread.deviation / math.sqrt(count)
    return difference, difference - half, difference + half


def margin_over_seeds(first: Spread, second: Spread) -> Margin:
    """Return the difference of two means and its 95 % interval by Welch's t-test.

    The interval is infinite if either has only one seed, or if neither varies between its seeds: the variation between
    seeds is then unknown.

    Args:
        first: The scores of one architecture.
        second: The scores of the other.

    Returns:
        The difference, and the lower and upper end of the interval.
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
    """The reliability of the result of a search.

    Args:
        metric: The metric that the search maximised.
        agreements: The rank agreement of each stage with the next one, and of screening with full training.
        best: The scores of the best architecture with seeds that had no influence on its selection, so that they are
            not biased by it; with the seed of the search if there are no others.
        default: The scores of the family's default with the same seeds; None if it was not trained.
        phases: The seconds of the budget that each phase has used.
        trainings: The number of results of each stage.
        title: The title of the fusion family.
        linear: The score of the linear classifier on the frozen encoders; None if it was not solved.
        is_default_best: Whether the best architecture is the default.
    """

    metric: str
    agreements: tuple[Agreement, ...]
    best: Spread
    default: Spread | None
    phases: Mapping[str, float]
    trainings: Mapping[Stage, int]
    title: str = "PMF"
    linear: float | None = None
    is_default_best: bool = False

    def lines(self) -> list[str]:
        """Return the report as readable text, one statement per line."""
        lines = [agreement_text(entry) for entry in self.agreements]
        lines.append(f"best: {_spread_text(self.best, self.metric)}")
        if self.default is not None:
            lines.append(f"{self.title} default: {_spread_text(self.default, self.metric)}")
            lines.extend(self._comparison(self.default))
        total = sum(self.phases.values())
        if total:
            shares = ", ".join(
                f"{PHASE_TITLES[name]} {format_seconds(seconds)} ({seconds / total:.0%})"
                for name, seconds in self.phases.items()
            )
            lines.append(f"time: {shares}; results: {counts_text(self.trainings)}")
        return lines

    def _comparison(self, default: Spread) -> list[str]:
        """Return the lines that compare the best architecture with the default."""
        lines = []
        difference, low, high = margin_over_seeds(self.best, default)
        if math.isfinite(low):
            luck = "" if low > 0 or high < 0 else "; this difference may be luck"
            shown, *ends = (METRICS[self.metric].score(value) for value in (difference, low, high))
            lines.append(
                f"best minus default: {shown:+.3f} validation {metric_title(self.metric)}, 95 % interval "
                f"{min(ends):+.3f} to {max(ends):+.3f}{luck}"
            )
        if difference < 0:
            lines.append(
                f"with these seeds the {self.title} default is better than the best architecture found; prefer its "
                "model, in the folder `default` of the run"
            )
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Return plain values; `margin` is the difference between best and default and its 95 % interval."""
        margin = None if self.default is None else margin_over_seeds(self.best, self.default)
        finite = None if margin is None or not math.isfinite(margin[1]) else list(margin)
        return {**asdict(self), "margin": finite}


def build_report(
    metric: str,
    results: Mapping[Stage, Sequence[Result]],
    *,
    best: Sequence[Result],
    default: Sequence[Result],
    phases: Mapping[str, float],
    title: str = "PMF",
    linear: Result | None = None,
) -> ReliabilityReport:
    """Build the reliability report of a search.

    Args:
        metric: The metric that the search maximised.
        results: The results of each stage.
        best: The trainings of the best architecture with new seeds, or its one full training.
        default: The same trainings of the family's default; empty if it was not trained.
        phases: The seconds of the budget that each phase has used.
        title: The title of the fusion family.
        linear: The linear classifier on the frozen encoders; None if it was not solved.
    """
    pairs: list[tuple[Stage, Stage]] = [("one_shot", "short"), ("short", "full"), ("one_shot", "full")]
    return ReliabilityReport(
        metric=metric,
        agreements=tuple(
            agreement(cheaper, dearer, results) for cheaper, dearer in pairs if results[cheaper] and results[dearer]
        ),
        best=Spread(tuple(_score(result, metric) for result in best)),
        default=Spread(tuple(_score(result, metric) for result in default)) if default else None,
        phases=phases,
        trainings={stage: len(entries) for stage, entries in results.items()},
        title=title,
        linear=None if linear is None else _score(linear, metric),
        is_default_best=bool(default) and best[0].architecture == default[0].architecture,
    )


def _score(result: Result, metric: str) -> float:
    """Return the score of a result by the objective; its own score is that of the proxy before full training."""
    return METRICS[metric].score(result.metrics[metric])


def _spread_text(spread: Spread, metric: str) -> str:
    count, name, mean = len(spread.scores), metric_title(metric), METRICS[metric].score(spread.mean)
    if count == 1:
        return f"validation {name} {mean:.3f} with one seed; the variation between seeds is unknown"
    return f"validation {name} {mean:.3f}, mean of {count} new seeds (standard deviation {spread.deviation:.3f})"


def agreement_text(found: Agreement) -> str:
    """Return a sentence about the agreement of two stages and its meaning for the result of the search."""
    cheaper, dearer = STAGE_NOUNS[found.cheaper], STAGE_NOUNS[found.dearer]
    if found.tau is None and found.count >= _MIN_CANDIDATES:
        return f"{cheaper} and {dearer}: all scores of one of them are equal, so the rankings cannot be compared"
    if found.tau is None:
        return f"{cheaper} and {dearer}: {found.count} candidate(s) with both scores, too few to compare the rankings"
    text = f"rank agreement {found.tau:.2f} over {found.count} candidates; 1 is perfect".replace("-", "−")
    if found.tau >= MIN_TAU:
        return f"the scores of {cheaper} predicted those of {dearer} ({text})"
    return f"the scores of {cheaper} did not predict those of {dearer} ({text}): a dropped architecture may be as good"
