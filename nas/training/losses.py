"""Training losses: cross-entropy of a single label, or binary cross-entropy of each of several labels."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from nas.common.devices import CPU
from nas.config.training_schema import RecipeConfig
from nas.data.samples import Labels, class_counts


def class_weights(labels: Labels, num_classes: int, kind: str) -> Tensor | None:
    """Return the weight N / (C · count) of every class, as the PMF paper uses it for unbalanced data.

    Args:
        labels: The labels of all training samples.
        num_classes: The number of classes C.
        kind: `inverse_frequency`, or `none` for no weights.

    Returns:
        The weights, (C,), float32; None for `none`.
    """
    if kind == "none":
        return None
    counts = np.maximum(class_counts(labels, num_classes), 1)
    return torch.tensor(len(labels) / (num_classes * counts), dtype=torch.float32)


def build_loss(recipe: RecipeConfig, labels: Labels, num_classes: int) -> "Loss":
    """Build the loss of a recipe for training samples with these labels."""
    return Loss(class_weights(labels, num_classes, recipe.class_weights), recipe.label_smoothing)


class Loss:
    """Classification loss; the loss of a batch is its weighted sum divided by its total weight.

    With class indices as labels, (B,), it is the cross-entropy, and a sample has the weight of its class. With labels
    of 0 and 1, (B, C), it is the binary cross-entropy of every label; a positive label has the weight of its class, a
    negative one has weight 1.

    Args:
        weights: The weights of the classes, (C,), float32; None for equal weights.
        label_smoothing: The fraction of the target that is spread over all classes, or in the multi-label case over
            positive and negative.
        device: The device of the logits; by default the CPU.
    """

    def __init__(self, weights: Tensor | None, label_smoothing: float, device: torch.device = CPU) -> None:
        self._host_weights = weights
        self._weights = None if weights is None else weights.to(device)
        self._label_smoothing = label_smoothing

    def to(self, device: torch.device) -> "Loss":
        """Return the loss for logits on a device."""
        return Loss(self._host_weights, self._label_smoothing, device)

    def total_weight(self, labels: Labels) -> float:
        """Return the divisor of the weighted sum over samples with these labels."""
        weights = self._host_weights
        if labels.ndim == 1:
            return float(len(labels)) if weights is None else float(weights[torch.from_numpy(labels)].sum())
        positive = torch.from_numpy(labels)
        return float(positive.numel() if weights is None else (positive * weights + (1 - positive)).sum())

    def weighted_sum(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the sum of the weighted losses of all samples, 0-dimensional.

        Args:
            logits: The logits, (B, C).
            labels: The labels, (B,), int64, or (B, C), float32.
        """
        if labels.ndim == 1:
            # Not the `weight` argument of torch, which weights the smoothed part of the target by the class that
            # receives it: models would predict rare classes for every sample.
            losses = cross_entropy(logits, labels, label_smoothing=self._label_smoothing, reduction="none")
            return (losses if self._weights is None else losses * self._weights[labels]).sum()
        smoothed = labels * (1 - self._label_smoothing) + self._label_smoothing / 2
        return binary_cross_entropy_with_logits(
            logits, smoothed if self._label_smoothing else labels, weight=self._label_weights(labels), reduction="sum"
        )

    def distillation_sum(
        self, logits: Tensor, teacher_probabilities: Tensor, labels: Tensor, temperature: float = 1.0
    ) -> Tensor:
        """Return the cross-entropy with the probabilities of a teacher as targets, weighted by the labels and summed.

        Args:
            logits: The logits of the student, (B, C).
            teacher_probabilities: The probabilities of the teacher at the temperature, (B, C); see
                `class_probabilities`.
            labels: The labels, (B,), int64, or (B, C), float32.
            temperature: The divisor of the logits. The sum is multiplied by its square, so that the gradients are about
                as large as without it (Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015).
        """
        if temperature != 1.0:
            return temperature**2 * self.distillation_sum(logits / temperature, teacher_probabilities, labels)
        if labels.ndim == 1:
            losses = cross_entropy(logits, teacher_probabilities, reduction="none")
            return (losses if self._weights is None else losses * self._weights[labels]).sum()
        return binary_cross_entropy_with_logits(
            logits, teacher_probabilities, weight=self._label_weights(labels), reduction="sum"
        )

    def _label_weights(self, labels: Tensor) -> Tensor | None:
        """Return the weight of every label, (B, C): that of its class if positive, else 1; None for equal weights.

        Equals `pos_weight` of torch for targets of 0 and 1; for other targets `pos_weight` pulls them towards 1.
        """
        return None if self._weights is None else torch.where(labels > 0, self._weights, 1.0)


def class_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """Return probabilities, (B, C): over the classes for single labels, of each label independently otherwise.

    Args:
        logits: The logits, (B, C).
        labels: The labels of the samples, whose shape distinguishes the two cases.
    """
    return logits.softmax(dim=1) if labels.ndim == 1 else logits.sigmoid()
