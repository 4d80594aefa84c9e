"""What a model is judged by; the arithmetic is torchmetrics'."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score


def evaluate_logits(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Metrics of single-label classification.

    Args:
        logits: (N, C).
        labels: Class indices, int64, (N,).

    Returns:
        From 0 to 1 and better when higher: `accuracy` (share of samples), `balanced_accuracy` (mean over classes of
        their recall) and `macro_f1` (mean over classes of their F1). Better when lower: `cross_entropy`, in nats a
        sample.
    """
    classes = logits.shape[1]
    predicted = logits.argmax(dim=1)
    return {
        "accuracy": float((predicted == labels).to(torch.float64).mean()),
        "balanced_accuracy": float(multiclass_accuracy(predicted, labels, num_classes=classes, average="macro")),
        "macro_f1": float(multiclass_f1_score(predicted, labels, num_classes=classes, average="macro")),
        "cross_entropy": float(cross_entropy(logits.to(torch.float64), labels)),
    }


def standard_error(share: float, count: int) -> float:
    """Standard error of a share measured on `count` independent samples (binomial)."""
    return float((share * (1 - share) / count) ** 0.5)
