"""The report of an evaluation: as text, and as JSON."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from nas.common.output import visible
from nas.run.evaluate import Evaluation
from nas.run.progress_lines import metric_line
from nas.run.tables import text_table
from nas.training.class_scores import Details

_MAX_CLASSES = 20
_MAX_CONFUSIONS = 5


def report_lines(evaluation: Evaluation) -> list[str]:
    """Return the report for a terminal: metrics, calibration, the classes and what they are taken for, notes.

    Of retrieval these are the metrics and the notes.

    Args:
        evaluation: The outcome of the evaluation.
    """
    details = evaluation.details
    lines = [metric_line(name, value, evaluation.num_samples) for name, value in evaluation.metrics.items()]
    if details is None:
        return [*lines, *(f"note: {note}" for note in evaluation.notes)]
    lines.append(f"expected calibration error: {details.calibration_error:.6f} ({len(details.bins)} bins)")
    lines += ["", *_class_lines(details), "", *_reliability_lines(details)]
    confusions = list(_confusions(details)) if details.confusion.ndim == 2 else []
    if confusions:
        lines += ["", f"most frequent confusions: {'; '.join(confusions)}"]
    return [*lines, *(f"note: {note}" for note in evaluation.notes)]


def _class_lines(details: Details) -> Iterator[str]:
    """Yield a table of the classes; of many, those with the lowest F1."""
    shown = list(details.classes)
    if len(shown) > _MAX_CLASSES:
        known = [entry for entry in shown if entry.f1 is not None]
        shown = sorted(known, key=lambda entry: entry.f1 or 0.0)[:_MAX_CLASSES]
        yield f"the {len(shown)} classes of {len(details.classes)} with the lowest F1 (--json shows all):"
    rows = [
        (_on_one_line(entry.name), str(entry.samples), str(entry.predicted), *map(_share, entry[3:])) for entry in shown
    ]
    yield text_table(("class", "samples", "predicted", "precision", "recall", "F1"), rows)


def _reliability_lines(details: Details) -> Iterator[str]:
    rows = [
        (
            f"{entry.low:.2f} to {entry.high:.2f}",
            str(entry.predictions),
            _share(entry.confidence),
            _share(entry.accuracy),
        )
        for entry in details.bins
        if entry.predictions
    ]
    yield text_table(("probability", "predictions", "mean", "right"), rows)


def _confusions(details: Details) -> Iterator[str]:
    """Yield the most frequent confusions of one class with another."""
    matrix = details.confusion.copy()
    np.fill_diagonal(matrix, 0)
    names = [_on_one_line(entry.name) for entry in details.classes]
    for place in np.argsort(-matrix, axis=None, kind="stable")[:_MAX_CONFUSIONS]:
        row, column = divmod(int(place), len(names))
        if matrix[row, column]:
            yield f"{names[row]} taken for {names[column]} {matrix[row, column]} times"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _on_one_line(name: str) -> str:
    return visible(name).replace("\n", "\\n")


def report_json(evaluation: Evaluation) -> str:
    """Return the report as a JSON object; rows and columns of the confusion matrix are in the order of the classes.

    Args:
        evaluation: The outcome of the evaluation.
    """
    values: dict[str, Any] = {
        "samples": evaluation.num_samples,
        "metrics": evaluation.metrics,
        **({} if evaluation.details is None else evaluation.details.as_dict()),
        "notes": evaluation.notes,
    }
    return json.dumps(values, indent=1, ensure_ascii=False)
