"""Metrics of a classifier: one function per metric of `nas.search.register`; the arithmetic is that of torchmetrics.

Those of retrieval are in `nas.training.retrieval`.

torchmetrics imports parts of scipy and matplotlib, which takes a second and 50 MiB. It is therefore imported by the
first evaluation, not by every command and driver.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

from nas.common.registry import load_object
from nas.data.samples import label_kind
from nas.search.metric_registry import METRICS
from nas.training.retrieval import Ranks, ranks_of

DEFAULT_THRESHOLD = 0.5
"""The probability above which a label is predicted, unless a threshold was tuned."""

_THRESHOLD_GRID = [step / 100 for step in range(1, 100)]


def load_torchmetrics() -> Any:
    """Import and return the functions of torchmetrics; workers call it early, so that their first job need not wait."""
    import torchmetrics.functional.classification as functional

    return functional


@dataclass(frozen=True)
class Predictions:
    """Logits and labels of evaluated samples, the argument of every metric.

    Args:
        logits: The logits, (N, C).
        labels: Class indices, int64, (N,); for multi-label data 1 for each label of a sample, float32, (N, C).
        given_threshold: The threshold of the tuned multi-label metrics, tuned on other samples; None to tune it on
            these samples, as validation does.
    """

    logits: Tensor
    labels: Tensor
    given_threshold: float | None = None

    @property
    def is_multi_label(self) -> bool:
        return self.labels.ndim == 2

    @property
    def num_classes(self) -> int:
        return self.logits.shape[1]

    @cached_property
    def classes(self) -> Tensor:
        """The predicted class of each sample, (N,); single-label only."""
        return self.logits.argmax(dim=1)

    @cached_property
    def probabilities(self) -> Tensor:
        """The probabilities, (N, C): over the classes, or of each label independently."""
        return self.logits.sigmoid() if self.is_multi_label else self.logits.softmax(dim=1)

    @cached_property
    def ranks(self) -> Tensor:
        """The rank of each sample by the probability of a class, of each class, from 0 to 1, float64, (N, C).

        Probabilities near 0 and 1 are equal in floating point where their logits are not, so the log-odds are ranked.
        Equal log-odds have equal ranks. Not the log-odds themselves, because torchmetrics would make them
        probabilities.
        """
        logits = self.logits.to(torch.float64)
        if not self.is_multi_label:
            logits = _log_odds(logits)
        places = [torch.unique(column, return_inverse=True)[1] for column in logits.unbind(dim=1)]
        return torch.stack(places, dim=1).to(torch.float64) / max(len(logits) - 1, 1)

    @cached_property
    def indicators(self) -> Tensor:
        """The labels as 0 and 1, int64, (N, C)."""
        return self.labels.to(torch.int64) if self.is_multi_label else one_hot(self.labels, self.num_classes)

    @cached_property
    def threshold(self) -> float:
        """The threshold of the tuned multi-label metrics."""
        return tune_threshold(self.logits, self.labels) if self.given_threshold is None else self.given_threshold


def _log_odds(logits: Tensor) -> Tensor:
    """Return log(p / (1 − p)) of each class, (N, C), p its softmax probability, where p is near 0 or 1, too."""
    shifted = logits - logits.amax(dim=1, keepdim=True)
    odds = shifted.exp()
    others = (odds.sum(dim=1, keepdim=True) - odds).log()
    # Cancels in the difference: what is left beside the most probable class.
    top = logits.argmax(dim=1, keepdim=True)
    beside = shifted.scatter(1, top, float("-inf")).logsumexp(dim=1, keepdim=True)
    return shifted - others.scatter(1, top, beside)


def accuracy(predictions: Predictions) -> float:
    """Return the fraction of samples predicted correctly; of multi-label data, with all labels correct."""
    if predictions.is_multi_label:
        predicted = predictions.probabilities > DEFAULT_THRESHOLD
        return float((predicted == predictions.indicators.bool()).all(dim=1).to(torch.float64).mean())
    return float((predictions.classes == predictions.labels).to(torch.float64).mean())


def balanced_accuracy(predictions: Predictions) -> float:
    """Return the mean recall over the classes that occur; single-label only."""
    recalls = load_torchmetrics().multiclass_accuracy(
        predictions.classes, predictions.labels, num_classes=predictions.num_classes, average="none"
    )
    # The mean of torchmetrics counts a class that is predicted but does not occur as a recall of 0.
    return float(recalls[predictions.labels.unique()].mean())


def macro_f1(predictions: Predictions) -> float:
    """Return the mean F1 over the classes."""
    return _f1(predictions, "macro", DEFAULT_THRESHOLD)


def micro_f1(predictions: Predictions) -> float:
    """Return the F1 of all decisions together."""
    return _f1(predictions, "micro", DEFAULT_THRESHOLD)


def macro_f1_tuned(predictions: Predictions) -> float:
    """Return the mean F1 over the classes at the tuned threshold; multi-label only."""
    return _f1(predictions, "macro", predictions.threshold)


def micro_f1_tuned(predictions: Predictions) -> float:
    """Return the F1 of all decisions together at the tuned threshold; multi-label only."""
    return _f1(predictions, "micro", predictions.threshold)


def _f1(predictions: Predictions, average: Literal["macro", "micro"], threshold: float) -> float:
    if predictions.is_multi_label:
        value = load_torchmetrics().multilabel_f1_score(
            predictions.probabilities,
            predictions.indicators,
            num_labels=predictions.num_classes,
            threshold=threshold,
            average=average,
        )
    else:
        value = load_torchmetrics().multiclass_f1_score(
            predictions.classes, predictions.labels, num_classes=predictions.num_classes, average=average
        )
    return float(value)


def mean_average_precision(predictions: Predictions) -> float:
    """Return the mean average precision over the classes that occur; 0 if none occurs."""
    indicators, ranks = predictions.indicators, predictions.ranks
    occurring = indicators.sum(dim=0).nonzero()[:, 0].tolist()
    if not occurring:
        return 0.0
    average_precision = load_torchmetrics().binary_average_precision
    return float(torch.stack([average_precision(ranks[:, c], indicators[:, c]) for c in occurring]).mean())


def negative_log_likelihood(predictions: Predictions) -> float:
    """Return the cross-entropy in nats: the mean over samples; of multi-label data, over samples and labels."""
    logits = predictions.logits.to(torch.float64)
    if predictions.is_multi_label:
        return float(binary_cross_entropy_with_logits(logits, predictions.labels.to(torch.float64)))
    return float(cross_entropy(logits, predictions.labels))


def evaluate_logits(logits: Tensor, labels: Tensor, threshold: float | None = None) -> dict[str, float]:
    """Compute all registered metrics that apply to the data.

    Args:
        logits: The logits, (N, C).
        labels: Class indices, int64, (N,); for multi-label data 1 for each label of a sample, float32, (N, C); for
            retrieval the items of each row, int64, (N, 2), whose logits are embeddings, (N, 2E).
        threshold: The threshold of the tuned multi-label metrics, from `tune_threshold` on other samples; None to tune
            it on these samples, as validation does.

    Returns:
        The metrics by name. A threshold that was tuned here is included as `threshold`.
    """
    kind = label_kind(labels)
    found: dict[str, float] = {}
    evaluated: Predictions | Ranks
    if kind == "pairs":
        evaluated = ranks_of(logits, labels)
    else:
        evaluated = Predictions(logits, labels, threshold)
        if kind == "multiple" and threshold is None:
            found["threshold"] = evaluated.threshold
    for metric in map(METRICS.__getitem__, METRICS):
        if metric.applies_to(kind):
            found[metric.name] = float(load_object(metric.function)(evaluated))
    return found


def tune_threshold(logits: Tensor, labels: Tensor) -> float:
    """Return the multiple of 0.01 that maximizes micro F1 as the threshold of all classes; of ties, the nearest to 0.5.

    Args:
        logits: The logits, (N, C).
        labels: 1 for each label of a sample, float32, (N, C).
    """
    probabilities, indicators = logits.sigmoid(), labels.bool()
    positives = int(indicators.sum())

    def micro_f1_at(threshold: float) -> float:
        predicted = probabilities > threshold
        return 2 * int((predicted & indicators).sum()) / max(int(predicted.sum()) + positives, 1)

    return max(_THRESHOLD_GRID, key=lambda threshold: (micro_f1_at(threshold), -abs(threshold - DEFAULT_THRESHOLD)))


def standard_error(fraction: float, count: int) -> float:
    """Return the standard error of a fraction measured on independent samples (binomial)."""
    return float((fraction * (1 - fraction) / count) ** 0.5)
