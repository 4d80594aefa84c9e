"""Scores of every class, the confusion matrix, and calibration: how a classifier errs, beyond one number."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nas.training.metrics import Predictions

NUM_BINS = 15
"""Bins of equal width, as in Guo et al., "On Calibration of Modern Neural Networks", ICML 2017."""

Counts = NDArray[np.int64]


class ClassScore(NamedTuple):
    """The scores of one class.

    Args:
        name: The name of the class.
        samples: The number of samples of the class.
        predicted: The number of samples that are predicted as of the class.
        precision: The share of the latter that are of the class; None if there are none.
        recall: The share of the former that are predicted so; None if there are none.
        f1: The harmonic mean of both; None if there are neither.
    """

    name: str
    samples: int
    predicted: int
    precision: float | None
    recall: float | None
    f1: float | None


class Bin(NamedTuple):
    """The predictions whose probability is in an interval.

    Args:
        low: The lower end, which is not in it (except 0).
        high: The upper end, which is.
        predictions: The number of predictions.
        confidence: Their mean probability; None if there are none.
        accuracy: The share of them that are right; None if there are none.
    """

    low: float
    high: float
    predictions: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Details:
    """How a classifier errs.

    Args:
        classes: The scores of every class, in the order of the logits.
        confusion: With one label a sample: the number of samples of each class (row) that are predicted as each
            (column). With several: for each class, the numbers of samples without and with the label (row) that are
            predicted without and with it (column).
        bins: The reliability table: of the predicted classes; with several labels, of all labels of all samples, by the
            probability that the sample has the label.
    """

    classes: Sequence[ClassScore]
    confusion: Counts
    bins: Sequence[Bin]

    @property
    def calibration_error(self) -> float:
        """The expected calibration error: the mean of |accuracy − confidence| over the predictions, by bins."""
        total = sum(entry.predictions for entry in self.bins)
        errors = (
            entry.predictions * abs(entry.accuracy - entry.confidence)
            for entry in self.bins
            if entry.accuracy is not None and entry.confidence is not None
        )
        return sum(errors) / max(total, 1)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "classes": [entry._asdict() for entry in self.classes],
            "confusion_matrix": self.confusion.tolist(),
            "expected_calibration_error": self.calibration_error,
            "reliability": [entry._asdict() for entry in self.bins],
        }


def describe_errors(logits: Tensor, labels: Tensor, class_names: Sequence[str], threshold: float | None) -> Details:
    """Return how a classifier errs.

    Args:
        logits: The logits, (N, C).
        labels: Class indices, int64, (N,); or 1 for each label of a sample, float32, (N, C).
        class_names: The names of the classes in the order of the logits.
        threshold: The probability above which a label is predicted, where a sample may have several; else None.
    """
    predictions = Predictions(logits, labels, threshold)
    probabilities = predictions.probabilities.double().numpy()
    if predictions.is_multi_label:
        truth, predicted = labels.numpy() > 0, (predictions.probabilities > predictions.threshold).numpy()
        confusion = np.stack(
            [np.bincount(2 * truth[:, c] + predicted[:, c], minlength=4).reshape(2, 2) for c in range(len(class_names))]
        )
        hits, samples, chosen = (values.sum(axis=0) for values in (truth & predicted, truth, predicted))
        bins = reliability(probabilities.ravel(), truth.ravel())
    else:
        indices, classes = labels.numpy(), predictions.classes.numpy()
        size = len(class_names)
        confusion = np.bincount(indices * size + classes, minlength=size * size).reshape(size, size)
        hits, samples, chosen = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
        bins = reliability(probabilities.max(axis=1), indices == classes)
    scores = [_score(name, *map(int, counts)) for name, *counts in zip(class_names, hits, samples, chosen, strict=True)]
    return Details(scores, confusion.astype(np.int64), bins)


def _score(name: str, hits: int, samples: int, predicted: int) -> ClassScore:
    return ClassScore(
        name,
        samples,
        predicted,
        precision=hits / predicted if predicted else None,
        recall=hits / samples if samples else None,
        f1=2 * hits / (samples + predicted) if samples + predicted else None,
    )


def reliability(probabilities: NDArray[np.float64], outcomes: NDArray[np.bool_]) -> list[Bin]:
    """Return the reliability table of predictions.

    Args:
        probabilities: The probability of each prediction, (N,).
        outcomes: Whether each is right, (N,).
    """
    edges = np.linspace(0, 1, NUM_BINS + 1)
    places = np.clip(np.searchsorted(edges, probabilities, side="left") - 1, 0, NUM_BINS - 1)
    counts = np.bincount(places, minlength=NUM_BINS)
    sums = [np.bincount(places, weights=values, minlength=NUM_BINS) for values in (probabilities, outcomes)]
    return [
        Bin(
            float(low),
            float(high),
            int(count),
            confidence=float(total / count) if count else None,
            accuracy=float(right / count) if count else None,
        )
        for low, high, count, total, right in zip(edges, edges[1:], counts, *sums, strict=False)
    ]
