"""Report the race of a search: which model is its answer, and what it is worth."""

import math
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from nas.config.schema import Config
from nas.data.dataset import read_dataset
from nas.data.features.store import FeatureStore
from nas.run.answer import highest
from nas.run.phases.race import RaceEnd
from nas.run.progress_lines import metric_title
from nas.run.roles import BEST
from nas.search.metric_registry import METRICS
from nas.search.racing import SeedScores, Standing
from nas.search.selection_bias import ExpectedScore, expected_score, held_out_mean

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Margin:
    """The difference between two mean scores, higher is better, and its interval.

    Args:
        difference: The first mean minus the second.
        low: The lower end of the 95 % interval, which holds for all comparisons of the race together.
        high: The upper end.
    """

    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class RaceReport:
    """The outcome of a race.

    Args:
        models: The number of models in the race.
        trainings: The number of their trainings.
        comparisons: The number of times that all were compared; 0 if no model has two seeds, so that nothing is known.
        answer: The role of the model that is the answer: the best, unless nothing exceeds a simpler one beyond chance.
            If nothing is known, the model with the highest mean; of equal ones, the simplest.
        margins: The best minus each simpler model, by its role.
        held_out: The mean score of the seeds that did not choose the model that they are scored for; None if no model
            has two seeds.
        expected: The expected score of the answer on test.
    """

    models: int
    trainings: int
    comparisons: int
    answer: str
    margins: Mapping[str, Margin]
    held_out: float | None
    expected: ExpectedScore

    def lines(self, metric: str, titles: Mapping[str, str], *, other: str = "") -> list[str]:
        """Return the report as readable text, one statement per line.

        Args:
            metric: The metric of the search.
            titles: The names of the simpler models by their role.
            other: The name of the answer, if it is another model than the one that the race has found.
        """
        lines = [self._margin_line(role, metric, titles[role]) for role in self.margins]
        lines = [line for line in lines if line]
        name = metric_title(metric)
        if self.held_out is not None and self.answer == BEST:
            value = METRICS[metric].score(self.held_out)
            lines.append(f"by seeds that did not choose it, the best has validation {name} {value:.3f}")
        if math.isfinite(self.expected.low):
            value, *ends = (METRICS[metric].score(entry) for entry in _ends(self.expected))
            single = {BEST: "best architecture", **titles}[self.answer]
            subject = f"the {single} alone, not of the {other}" if other else "the answer"
            corrected = "; corrected for having been selected" if self.expected.optimism else ""
            lines.append(
                f"expected test {name} of {subject}: {value:.3f}, 90 % interval {min(ends):.3f} to "
                f"{max(ends):.3f}{corrected}"
            )
        return lines

    def _margin_line(self, role: str, metric: str, title: str) -> str:
        margin = self.margins[role]
        if not math.isfinite(margin.low):
            return ""
        luck = "" if margin.low > 0 or margin.high < 0 else "; this difference may be luck"
        shown, *ends = (METRICS[metric].score(value) for value in (margin.difference, margin.low, margin.high))
        return (
            f"best minus {title}: {shown:+.3f} validation {metric_title(metric)}, 95 % interval {min(ends):+.3f} to "
            f"{max(ends):+.3f}{luck}"
        )


def _ends(expected: ExpectedScore) -> tuple[float, float, float]:
    return expected.value, expected.low, expected.high


def report_race(
    field: Mapping[Name, SeedScores],
    standing: Standing[Name],
    best: Name,
    simple: Mapping[str, Name],
    *,
    excluded: Collection[str] = (),
    samples: int,
    test_samples: int,
) -> RaceReport:
    """Report the outcome of a race.

    Args:
        field: The scores of all models.
        standing: The standing at its end.
        best: The best architecture of the search.
        simple: The simpler models in the race by their roles, the simplest first.
        excluded: The roles of simpler models that cannot be the answer.
        samples: The number of validation samples.
        test_samples: The number of test samples.
    """
    others = {role: name for role, name in simple.items() if name != best}
    margins = {
        role: Margin(
            field[best].mean - field[name].mean,
            standing.lower_ends[best, name],
            -standing.lower_ends[name, best],
        )
        for role, name in others.items()
    }
    answer = _answer(field, standing, {role: name for role, name in others.items() if role not in excluded}, best)
    seeds = {name: scores for name, scores in field.items() if scores.has_luck}
    chosen = best if answer == BEST else others[answer]
    expected = expected_score(
        field, chosen, is_selected=answer == BEST and len(field) > 1, samples=samples, new_samples=test_samples
    )
    return RaceReport(
        models=len(field),
        trainings=sum(map(len, field.values())),
        comparisons=standing.looks,
        answer=answer,
        margins=margins,
        held_out=held_out_mean(seeds) if seeds else None,
        expected=expected,
    )


def _answer(field: Mapping[Name, SeedScores], standing: Standing[Name], simple: Mapping[str, Name], best: Name) -> str:
    """Return the role of the answer: the simplest model that no other exceeds beyond chance, or else the best."""
    if not standing.looks:
        return highest({role: field[name].mean for role, name in (*simple.items(), (BEST, best))})
    for role, name in simple.items():
        if all(standing.lower_ends[other, name] <= 0 for other in (best, *simple.values()) if other != name):
            return role
    return BEST


def report_end(end: RaceEnd, config: Config, store: FeatureStore, excluded: Collection[str]) -> RaceReport:
    """Report the end of the race of a search; of the test split nothing but the number of samples is used.

    Args:
        end: The end of the race.
        config: The configuration of the search.
        store: The features of the search.
        excluded: The roles of simpler models that cannot be the answer.

    Raises:
        DataError: If the test split cannot be used.
    """
    test = read_dataset(config.data, ["test"], store.class_names).splits["test"]
    return report_race(
        end.field,
        end.standing,
        end.best,
        end.simple,
        excluded=excluded,
        samples=len(store.splits["validation"]),
        test_samples=len(test.texts),
    )
