"""State in one sentence which model is the answer of a search, and whether its best beats the simple models."""

from collections.abc import Mapping, Sequence

from nas.run.progress_lines import metric_title
from nas.run.race_report import Margin, RaceReport
from nas.run.reliability import ReliabilityReport
from nas.run.roles import BEST, DEFAULT, simple_titles
from nas.search.metric_registry import METRICS

_OTHERS = {
    "ensemble": "the answer is the ensemble of several models",
    "distilled model": "the answer is the model distilled from the ensemble",
}


def verdict(report: ReliabilityReport, *, other: str = "") -> str:
    """Return the verdict on the best architecture of a search, and the answer if that is another model.

    A model beats another where the lower end of the 95 % interval of their difference is above 0.

    Args:
        report: The scores of the best and of the simpler models.
        other: The answer, if the race has not found it: `ensemble` or `distilled model`.
    """
    race = report.race
    if not any(role != DEFAULT or not report.is_default_best for role in report.simple):
        return "There is no simpler model to compare with."
    if race is None or not race.comparisons:
        return _by_scores(report, other)
    return _by_race(report, race, other)


def _by_scores(report: ReliabilityReport, other: str) -> str:
    """Return the verdict where no model has a second seed."""
    names, name = _names(report), f"validation {metric_title(report.metric)}"
    values = {role: spread.mean for role, spread in report.simple.items()} | {BEST: report.best.mean}
    if report.is_default_best and values[DEFAULT] == values[BEST]:
        del values[DEFAULT]
    texts = {role: f"{names[role]} {METRICS[report.metric].score(value):.3f}" for role, value in values.items()}
    text = f"The spread over seeds is unknown; {name}: {', '.join(texts.values())}{_excluded(report, list(values))}"
    if other:
        return f"{text}; {_OTHERS[other]}."
    ties = [role for role in values if values[role] == values[report.answer] and role not in report.excluded]
    which = "the simplest of the models with the highest one" if len(ties) > 1 else "the model with the highest one"
    return f"{text}; the answer is {which}, {names[report.answer]}."


def _by_race(report: ReliabilityReport, race: RaceReport, other: str) -> str:
    """Return the verdict where the race has compared the models."""
    names, name = _names(report), f"validation {metric_title(report.metric)}"
    shown = {role: f"{names[role]} ({_text(margin, report.metric)})" for role, margin in race.margins.items()}
    beaten = [role for role, margin in race.margins.items() if margin.low > 0]
    others = [role for role in race.margins if role not in beaten]
    subject = "The best architecture"
    if report.is_default_best:
        subject = f"The best architecture, which is {names[DEFAULT]},"
    wins, losses = (_joined([shown[role] for role in roles], word) for roles, word in ((beaten, "and"), (others, "or")))
    if not others:
        return f"{subject} beats {wins} beyond chance in {name}{f'; {_OTHERS[other]}' if other else ''}."
    claim = f"beats {wins}, but not {losses}," if beaten else f"does not beat {losses}"
    text = f"{subject} {claim} beyond chance in {name}{_excluded(report, others)}"
    if other:
        return f"{text}; {_OTHERS[other]}."
    if report.answer == BEST:
        return f"{text}; the answer is the best architecture."
    simpler = [role for role in others[: others.index(report.answer)] if role not in report.excluded]
    why = (
        f", because {_joined([names[role] for role in simpler], 'and')} is worse than another model" if simpler else ""
    )
    return f"{text}; the answer is {names[report.answer]}, which is simpler{why}."


def _names(report: ReliabilityReport) -> dict[str, str]:
    """Return the names of all models by their roles."""
    titles: Mapping[str, str] = {BEST: "best architecture", **simple_titles(report.title)}
    return {role: f"the {title}" for role, title in titles.items()}


def _excluded(report: ReliabilityReport, roles: Sequence[str]) -> str:
    """Return a clause for each of some simpler models that cannot be the answer."""
    names = _names(report)
    return "".join(
        f"; {names[role]} is not the answer, because it does not meet {report.excluded[role]}"
        for role in roles
        if role in report.excluded
    )


def _joined(texts: Sequence[str], word: str) -> str:
    *first, last = texts or [""]
    return f"{', '.join(first)} {word} {last}" if first else last


def _text(margin: Margin, metric: str) -> str:
    shown, *ends = (METRICS[metric].score(value) for value in (margin.difference, margin.low, margin.high))
    return f"{shown:+.3f}, 95 % interval {min(ends):+.3f} to {max(ends):+.3f}"
