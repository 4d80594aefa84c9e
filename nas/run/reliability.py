"""Report how reliable the result of a search is, from measurements of the search itself."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from nas.common.sealed_json import read_sealed_json
from nas.common.units import format_seconds
from nas.run.answer import highest
from nas.run.progress_lines import PHASE_TITLES, STAGE_NOUNS, counts_text, metric_title
from nas.run.race_report import RaceReport
from nas.run.roles import BEST, DEFAULT, SIMPLE_MODELS, simple_titles
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


@dataclass(frozen=True)
class ReliabilityReport:
    """The reliability of the result of a search.

    Args:
        metric: The metric that the search maximised.
        agreements: The rank agreement of each stage with the next one, and of screening with full training.
        best: The scores of the best architecture with all seeds.
        simple: The scores of the simpler models with all seeds, by their roles, the simplest first.
        phases: The seconds of the budget that each phase has used.
        trainings: The number of results of each stage.
        title: The title of the fusion family.
        answer: The role of the answer where it is a single model.
        excluded: The simpler models that cannot be the answer, each with a constraint that it violates.
        is_default_best: Whether the best architecture is the default.
        race: The outcome of the race; None if there was none.
    """

    metric: str
    agreements: tuple[Agreement, ...]
    best: Spread
    simple: Mapping[str, Spread]
    phases: Mapping[str, float]
    trainings: Mapping[Stage, int]
    title: str = "PMF"
    answer: str = BEST
    excluded: Mapping[str, str] = field(default_factory=dict)
    is_default_best: bool = False
    race: RaceReport | None = None

    def lines(self, *, other: str = "") -> list[str]:
        """Return the report as readable text, one statement per line.

        Args:
            other: The name of the answer, if it is another model than the one that the race has found.
        """
        lines = [agreement_text(entry) for entry in self.agreements]
        lines.append(f"best: {_spread_text(self.best, self.metric)}")
        titles = simple_titles(self.title)
        lines.extend(
            f"{titles[model.role]}: {_spread_text(self.simple[model.role], self.metric)}"
            for model in SIMPLE_MODELS
            if model.role in self.simple and not model.is_solved
        )
        if self.race is not None:
            lines.extend(self.race.lines(self.metric, titles, other=other))
        total = sum(self.phases.values())
        if total:
            shares = ", ".join(
                f"{PHASE_TITLES[name]} {format_seconds(seconds)} ({seconds / total:.0%})"
                for name, seconds in self.phases.items()
            )
            lines.append(f"time: {shares}; results: {counts_text(self.trainings)}")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Return plain values; ends of intervals that are not known are None."""
        return {key: _finite(entry) for key, entry in asdict(self).items()}


def read_verdict(path: Path) -> list[str]:
    """Return the verdict on a finished search, and the lines about how far to trust it.

    Args:
        path: The file with the reliability report; without it there are none.

    Raises:
        StudyError: If the file is damaged.
    """
    if not path.exists():
        return []
    # Runs of earlier versions have no such lines.
    return read_sealed_json(
        path,
        lambda values: [str(line) for line in values.get("verdict", [])],
        expected="the reliability report of a search",
        remedy="delete it; `resume` writes it again",
    )


def _finite(value: Any) -> Any:
    """Return nested plain values with None for infinite numbers, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and math.isinf(value) else value


def build_report(
    metric: str,
    results: Mapping[Stage, Sequence[Result]],
    *,
    seeds: Mapping[str, Sequence[Result]],
    phases: Mapping[str, float],
    title: str = "PMF",
    excluded: Mapping[str, str] | None = None,
    race: RaceReport | None = None,
) -> ReliabilityReport:
    """Build the reliability report of a search.

    Args:
        metric: The metric that the search maximised.
        results: The results of each stage.
        seeds: All full trainings of the best architecture, or its last one, and of the simpler models, by their roles.
        phases: The seconds of the budget that each phase has used.
        title: The title of the fusion family.
        excluded: The simpler models that cannot be the answer, each with a constraint that it violates.
        race: The outcome of the race; None if there was none. The answer is then the model with the highest score.
    """
    best, default, excluded = seeds[BEST], seeds.get(DEFAULT), dict(excluded or {})
    pairs: list[tuple[Stage, Stage]] = [("one_shot", "short"), ("short", "full"), ("one_shot", "full")]
    spreads = {model.role: _spread(seeds[model.role], metric) for model in SIMPLE_MODELS if model.role in seeds}
    scores = {role: spread.mean for role, spread in spreads.items() if role not in excluded and seeds[role] != best}
    return ReliabilityReport(
        metric=metric,
        agreements=tuple(
            agreement(cheaper, dearer, results) for cheaper, dearer in pairs if results[cheaper] and results[dearer]
        ),
        best=_spread(best, metric),
        simple=spreads,
        answer=highest({**scores, BEST: _spread(best, metric).mean}) if race is None else race.answer,
        excluded=excluded,
        phases=phases,
        trainings={stage: len(entries) for stage, entries in results.items()},
        title=title,
        is_default_best=default is not None and best[0].architecture == default[0].architecture,
        race=race,
    )


def _spread(results: Sequence[Result], metric: str) -> Spread:
    """Return the scores of results by the objective; their own scores are those of the proxy before full training."""
    return Spread(tuple(METRICS[metric].score(result.metrics[metric]) for result in results))


def _spread_text(spread: Spread, metric: str) -> str:
    count, name, mean = len(spread.scores), metric_title(metric), METRICS[metric].score(spread.mean)
    if count == 1:
        return f"validation {name} {mean:.3f} with one seed; the variation between seeds is unknown"
    return f"validation {name} {mean:.3f}, mean of {count} seeds (standard deviation {spread.deviation:.3f})"


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
