"""State in one sentence whether a search was worth it: whether its best beats the simple models beyond chance."""

import math
from collections.abc import Mapping
from pathlib import Path

from nas.run.program_name import command_line
from nas.run.progress_lines import metric_title
from nas.run.race_report import Margin
from nas.run.reliability import ReliabilityReport
from nas.run.roles import BEST, DEFAULT, LINEAR
from nas.search.metric_registry import METRICS


def verdict(report: ReliabilityReport, run: Path, *, is_ensemble: bool = False) -> str:
    """Return the verdict on the best architecture of a search, and the simpler model to use if it does not beat it.

    A model beats another where the lower end of the 95 % interval of their difference is above 0.

    Args:
        report: The scores of the best, the default and the linear classifier.
        run: The run directory.
        is_ensemble: Whether the exported answer is an ensemble, which is then the one to use.
    """
    default_name, name = f"the {report.title} default", f"validation {metric_title(report.metric)}"
    margins, answer = _judgement(report)
    linear, default = margins.get(LINEAR), margins.get(DEFAULT)
    subject = "The best architecture"
    if report.is_default_best:
        subject = f"The best architecture, which is {default_name},"
    export = command_line("export", run, rest="--output DIR --pick linear")
    use_linear = f"use the linear classifier, which is simpler: {export}"
    use_default = f"use the default, which is simpler: {run / 'default'}"
    if linear is not None and linear.low <= 0:
        text = f"{subject} does not beat the linear classifier beyond chance in {name} ({_text(linear, report.metric)})"
        if answer == DEFAULT:
            return f"{text}, but {default_name} does; {_advice(use_default, is_ensemble)}"
        return f"{text}; {_advice(use_linear, is_ensemble)}"
    beaten = "" if linear is None else f" beats the linear classifier ({_text(linear, report.metric)})"
    if default is None:
        return f"{subject}{beaten} beyond chance in {name}." if beaten else "There is no simpler model to compare with."
    shown = f"{default_name} ({_text(default, report.metric)})"
    if default.low > 0:
        joint = f"{beaten} and" if beaten else " beats"
        return f"{subject}{joint} {shown} beyond chance in {name}."
    joint = f"{beaten}, but not" if beaten else " does not beat"
    return f"{subject}{joint} {shown} beyond chance in {name}; {_advice(use_default, is_ensemble)}"


def _judgement(report: ReliabilityReport) -> tuple[Mapping[str, Margin], str]:
    """Return the margins of the best over the simpler models, and the role of the answer; after a race or without."""
    if report.race is not None:
        return report.race.margins, report.race.answer
    margins = {
        role: Margin(report.best.mean - spread.mean, -math.inf, math.inf)
        for role, spread in report.simple.items()
        if role != DEFAULT or not report.is_default_best
    }
    return margins, next(iter(margins), BEST)


def _advice(text: str, is_ensemble: bool) -> str:
    return "the answer is the ensemble of several models" if is_ensemble else text


def _text(margin: Margin, metric: str) -> str:
    shown, *ends = (METRICS[metric].score(value) for value in (margin.difference, margin.low, margin.high))
    if not math.isfinite(margin.low):
        return f"{shown:+.3f}, spread over seeds unknown"
    return f"{shown:+.3f}, 95 % interval {min(ends):+.3f} to {max(ends):+.3f}"
