"""What a model is judged by; the arithmetic is torchmetrics'.

It brings scipy's signals and matplotlib along, a second and 50 MiB, so it is imported where something is judged, and
not by every command and driver.
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

THRESHOLD = 0.5
"""Probability from which a label is said to be there, where none was tuned."""

_TRIED_THRESHOLDS = [step / 100 for step in range(1, 100)]


def arithmetic() -> Any:
    """torchmetrics' functions; a worker asks for them before its first job, which then does not wait for them."""
    import torchmetrics.functional.classification as functional

    return functional


def evaluate_logits(logits: Tensor, labels: Tensor, threshold: float | None = None) -> dict[str, float]:
    """Metrics of single-label or multi-label classification.

    Args:
        logits: (N, C).
        labels: Class indices, int64, (N,); or 1 for each label that a sample has, float32, (N, C).
        threshold: For the metrics of several labels that are called tuned, from `tuned_threshold` of other samples;
            None tunes it on these, as validation does.

    Returns:
        From 0 to 1 and better when higher: `accuracy` (share of samples; of several labels, all have to be right),
        `macro_f1` and `micro_f1` (F1 as a mean over classes, and of all decisions together), `mean_average_precision`
        (mean over classes that occur of their average precision), and `balanced_accuracy` (mean over classes that occur
        of their recall) of one label, `macro_f1_tuned` and `micro_f1_tuned` (with another threshold than 0.5) of
        several. Better when lower: `cross_entropy`, in nats a sample, or a label. `threshold` is the one that was tuned
        here.
    """
    if labels.ndim == 2:
        return _of_several(logits, labels, threshold)
    classes = logits.shape[1]
    predicted = logits.argmax(dim=1)
    f1_score = arithmetic().multiclass_f1_score
    return {
        "accuracy": float((predicted == labels).to(torch.float64).mean()),
        "balanced_accuracy": _balanced_accuracy(predicted, labels, classes),
        "macro_f1": float(f1_score(predicted, labels, num_classes=classes, average="macro")),
        "micro_f1": float(f1_score(predicted, labels, num_classes=classes, average="micro")),
        "mean_average_precision": _mean_average_precision(logits.softmax(dim=1), one_hot(labels, classes)),
        "cross_entropy": float(cross_entropy(logits.to(torch.float64), labels)),
    }


def _balanced_accuracy(predicted: Tensor, labels: Tensor, classes: int) -> float:
    recalls = arithmetic().multiclass_accuracy(predicted, labels, num_classes=classes, average="none")
    # torchmetrics' own mean counts a class that is predicted and does not occur, as a recall of 0.
    return float(recalls[labels.unique()].mean())


def _of_several(logits: Tensor, labels: Tensor, threshold: float | None) -> dict[str, float]:
    there = labels.to(torch.int64)
    scores = logits.sigmoid()
    tuned = tuned_threshold(logits, labels) if threshold is None else threshold
    classes = logits.shape[1]

    def f1(average: Literal["macro", "micro"], limit: float) -> float:
        score = arithmetic().multilabel_f1_score
        return float(score(scores, there, num_labels=classes, threshold=limit, average=average))

    found = {"threshold": tuned} if threshold is None else {}
    return found | {
        "accuracy": float(((scores > THRESHOLD) == there.bool()).all(dim=1).to(torch.float64).mean()),
        "macro_f1": f1("macro", THRESHOLD),
        "micro_f1": f1("micro", THRESHOLD),
        "macro_f1_tuned": f1("macro", tuned),
        "micro_f1_tuned": f1("micro", tuned),
        "mean_average_precision": _mean_average_precision(scores, there),
        "cross_entropy": float(binary_cross_entropy_with_logits(logits.to(torch.float64), labels.to(torch.float64))),
    }


def _mean_average_precision(scores: Tensor, there: Tensor) -> float:
    """Over classes that occur; both (N, C)."""
    occurring = there.sum(dim=0).nonzero()[:, 0].tolist()
    if not occurring:
        return 0.0
    average_precision = arithmetic().binary_average_precision
    return float(torch.stack([average_precision(scores[:, c], there[:, c]) for c in occurring]).mean())


def tuned_threshold(logits: Tensor, labels: Tensor) -> float:
    """The threshold in hundredths, one for all classes, at which micro F1 is highest; of several the nearest
    to 0.5.

    Args:
        logits: (N, C).
        labels: 1 for each label that a sample has, float32, (N, C).
    """
    scores, there = logits.sigmoid(), labels.bool()
    total = int(there.sum())

    def micro_f1(limit: float) -> float:
        said = scores > limit
        return 2 * int((said & there).sum()) / max(int(said.sum()) + total, 1)

    return max(_TRIED_THRESHOLDS, key=lambda limit: (micro_f1(limit), -abs(limit - THRESHOLD)))


def standard_error(share: float, count: int) -> float:
    """Standard error of a share measured on `count` independent samples (binomial)."""
    return float((share * (1 - share) / count) ** 0.5)
