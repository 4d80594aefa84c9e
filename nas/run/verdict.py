"""State in one sentence whether a search was worth it: whether its best beats the simple models beyond chance."""

import math
from pathlib import Path

from nas.run.program_name import command_line
from nas.run.progress_lines import metric_title
from nas.run.reliability import Margin, ReliabilityReport, margin_over_seeds, margin_over_value
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
    linear = None if report.linear is None else margin_over_value(report.best, report.linear)
    default = None if report.default is None else margin_over_seeds(report.best, report.default)
    subject = "The best architecture"
    if report.is_default_best:
        subject, default = f"The best architecture, which is {default_name},", None
    export = command_line("export", run, rest="--output DIR --pick linear")
    use_linear = f"use the linear classifier, which is simpler: {export}"
    use_default = f"use the default, which is simpler: {run / 'default'}"
    if linear is not None and not _is_beaten(linear):
        text = f"{subject} does not beat the linear classifier beyond chance in {name} ({_text(linear, report.metric)})"
        is_default_better = (
            report.default is not None
            and report.linear is not None
            and _is_beaten(margin_over_value(report.default, report.linear))
        )
        if not is_default_better:
            return f"{text}; {_advice(use_linear, is_ensemble)}"
        return f"{text}, but {default_name} does; {_advice(use_default, is_ensemble)}"
    beaten = "" if linear is None else f" beats the linear classifier ({_text(linear, report.metric)})"
    if default is None:
        return f"{subject}{beaten} beyond chance in {name}." if beaten else "There is no simpler model to compare with."
    shown = f"{default_name} ({_text(default, report.metric)})"
    if _is_beaten(default):
        joint = f"{beaten} and" if beaten else " beats"
        return f"{subject}{joint} {shown} beyond chance in {name}."
    joint = f"{beaten}, but not" if beaten else " does not beat"
    return f"{subject}{joint} {shown} beyond chance in {name}; {_advice(use_default, is_ensemble)}"


def _is_beaten(margin: Margin) -> bool:
    return margin[1] > 0


def _advice(text: str, is_ensemble: bool) -> str:
    return "the answer is the ensemble of several models" if is_ensemble else text


def _text(margin: Margin, metric: str) -> str:
    shown, *ends = (METRICS[metric].score(value) for value in margin)
    if not math.isfinite(margin[1]):
        return f"{shown:+.3f}, spread over seeds unknown"
    return f"{shown:+.3f}, 95 % interval {min(ends):+.3f} to {max(ends):+.3f}"
