"""What training minimises: cross-entropy of the one label, or binary cross-entropy of each of several."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from nas.config.schema import RecipeConfig
from nas.data.samples import Labels, class_counts


def class_weights(labels: Labels, num_classes: int, kind: str) -> Tensor | None:
    """Weight N / (C · count) of every class, as the PMF paper's unbalanced data sets have it; None for `none`.

    Args:
        labels: Of all training samples.
        num_classes: C.
        kind: `none` or `inverse_frequency`.
    """
    if kind == "none":
        return None
    counts = np.maximum(class_counts(labels, num_classes), 1)
    return torch.tensor(len(labels) / (num_classes * counts), dtype=torch.float32)


class Loss:
    """Loss of a classifier; a batch's is the weighted sum over the batch's total weight.

    Labels are class indices, (B,): cross-entropy, in which a sample weighs as its class does. Or they are 1 for each
    label that a sample has, (B, C): binary cross-entropy of every label, in which a label that is there weighs as its
    class does, and one that is not weighs 1.

    Args:
        weights: Of every class, (C,), float32; None where all weigh 1.
        label_smoothing: Part of the target that is spread over all classes, or, of several labels, over yes and no.
    """

    def __init__(self, weights: Tensor | None, label_smoothing: float) -> None:
        self._weights = weights
        self._label_smoothing = label_smoothing

    def to(self, device: torch.device) -> "Loss":
        return Loss(None if self._weights is None else self._weights.to(device), self._label_smoothing)

    def total_weight(self, labels: Labels) -> float:
        """What the summed losses of samples with these labels are divided by."""
        weights = None if self._weights is None else self._weights.cpu()
        if labels.ndim == 1:
            return float(len(labels)) if weights is None else float(weights[torch.from_numpy(labels)].sum())
        there = torch.from_numpy(labels)
        return float(there.numel() if weights is None else (there * weights + (1 - there)).sum())

    def summed(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Weighted losses of all samples, summed.

        Args:
            logits: (B, C).
            labels: (B,), int64, or (B, C), float32.
        """
        if labels.ndim == 1:
            # Not by torch's `weight`, which weighs the part of the target that is spread by the class it goes to: rare
            # classes would be what a model says of everybody.
            each = cross_entropy(logits, labels, label_smoothing=self._label_smoothing, reduction="none")
            return (each if self._weights is None else each * self._weights[labels]).sum()
        smoothed = labels * (1 - self._label_smoothing) + self._label_smoothing / 2
        return binary_cross_entropy_with_logits(
            logits, smoothed if self._label_smoothing else labels, weight=self._label_weights(labels), reduction="sum"
        )

    def distance(self, logits: Tensor, lesson: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy with a teacher's probabilities in place of the labels, weighted as those are, summed.

        Args:
            logits: (B, C).
            lesson: What `probabilities` made of the teacher's logits, (B, C).
            labels: (B,), int64, or (B, C), float32.
        """
        if labels.ndim == 1:
            distances = cross_entropy(logits, lesson, reduction="none")
            return (distances if self._weights is None else distances * self._weights[labels]).sum()
        return binary_cross_entropy_with_logits(logits, lesson, weight=self._label_weights(labels), reduction="sum")

    def _label_weights(self, labels: Tensor) -> Tensor | None:
        """Of every label, (B, C): its class's where it is there and else 1, whatever the target is made of it.

        With targets of 0 and 1 the same as torch's `pos_weight`, which would draw any other target towards 1.
        """
        return None if self._weights is None else torch.where(labels > 0, self._weights, 1.0)


def loss_of(recipe: RecipeConfig, labels: Labels, num_classes: int) -> Loss:
    """The loss of a recipe, for training samples with these labels."""
    return Loss(class_weights(labels, num_classes, recipe.class_weights), recipe.label_smoothing)


def probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """What logits say of classes, (B, C): one of them, or each by itself, as the labels are."""
    return logits.softmax(dim=1) if labels.ndim == 1 else logits.sigmoid()
