"""Losses against their definitions, spelled out."""

import numpy as np
import pytest
import torch
from torch import Tensor

from nas.training.losses import Loss, class_probabilities, class_weights

WEIGHTS = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
LOGITS = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]], dtype=torch.float64)
MULTI_LABELS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)


def binary_cross_entropy_sum(targets: Tensor, weights: Tensor) -> Tensor:
    """Return the sum of the binary cross-entropies by definition, with weighted positive labels."""
    probabilities = 1 / (1 + torch.exp(-LOGITS))
    weights = torch.where(MULTI_LABELS == 1, weights, 1)
    return -(weights * (targets * probabilities.log() + (1 - targets) * (1 - probabilities).log())).sum()


def test_class_weights_are_the_inverse_frequency() -> None:
    weights = class_weights(np.array([0, 0, 0, 1]), 2, "inverse_frequency")
    assert weights is not None
    assert weights.tolist() == pytest.approx([4 / (2 * 3), 4 / (2 * 1)])
    multi = class_weights(np.array([[1, 0], [1, 1], [1, 0], [0, 0]], dtype=np.float32), 2, "inverse_frequency")
    assert multi is not None and multi.tolist() == pytest.approx([4 / (2 * 3), 4 / (2 * 1)])
    assert class_weights(np.array([0, 1]), 2, "none") is None


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_multi_label_loss_is_the_weighted_sum(weights: Tensor | None, smoothing: float) -> None:
    loss = Loss(weights, smoothing)
    used = torch.ones(3, dtype=torch.float64) if weights is None else weights
    smoothed = MULTI_LABELS * (1 - smoothing) + smoothing / 2
    torch.testing.assert_close(loss.weighted_sum(LOGITS, MULTI_LABELS), binary_cross_entropy_sum(smoothed, used))
    expected = 6.0 if weights is None else 0.5 + 1 + 4  # positive labels weigh 0.5 and 1, the four negative ones 1 each
    assert loss.total_weight(MULTI_LABELS.to(torch.float32).numpy()) == expected


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_single_label_loss_weights_a_sample_by_its_class(weights: Tensor | None, smoothing: float) -> None:
    labels = torch.tensor([1, 0])
    target = torch.nn.functional.one_hot(labels, 3) * (1 - smoothing) + smoothing / 3
    losses = -(target * LOGITS.log_softmax(dim=1)).sum(dim=1)
    used = torch.ones(3, dtype=torch.float64) if weights is None else weights
    loss = Loss(weights, smoothing)
    torch.testing.assert_close(loss.weighted_sum(LOGITS, labels), (losses * used[labels]).sum())
    assert loss.total_weight(labels.numpy()) == (2.0 if weights is None else 2.5)


@pytest.mark.parametrize("is_multi_label", [False, True])
def test_optimal_logits_do_not_depend_on_class_weights(is_multi_label: bool) -> None:
    labels = torch.tensor([0])
    label = torch.nn.functional.one_hot(labels, 3).double() if is_multi_label else labels
    target = torch.nn.functional.one_hot(labels, 3) * 0.9 + 0.1 / (2 if is_multi_label else 3)
    # Logits whose probabilities equal the target.
    logits = (target.logit() if is_multi_label else target.log()).requires_grad_()
    Loss(torch.tensor([0.5, 2.0, 100.0], dtype=torch.float64), 0.1).weighted_sum(logits, label).backward()
    assert logits.grad is not None and logits.grad.abs().max() < 1e-6


def test_multi_label_distillation_uses_teacher_probabilities_as_targets() -> None:
    teacher = class_probabilities(torch.tensor([[0.0, 1.0, 2.0], [3.0, -1.0, 0.0]], dtype=torch.float64), MULTI_LABELS)
    assert teacher[0, 0] == 0.5 and teacher[1, 2] == 0.5
    torch.testing.assert_close(
        Loss(WEIGHTS, 0.1).distillation_sum(LOGITS, teacher, MULTI_LABELS), binary_cross_entropy_sum(teacher, WEIGHTS)
    )


def test_single_label_distillation_uses_teacher_probabilities_as_targets() -> None:
    labels = torch.tensor([1, 0])
    teacher = class_probabilities(torch.tensor([[0.0, 1.0, 2.0], [3.0, -1.0, 0.0]], dtype=torch.float64), labels)
    torch.testing.assert_close(teacher.sum(dim=1), torch.ones(2, dtype=torch.float64))
    losses = -(teacher * LOGITS.log_softmax(dim=1)).sum(dim=1)
    torch.testing.assert_close(
        Loss(WEIGHTS, 0.0).distillation_sum(LOGITS, teacher, labels), (losses * WEIGHTS[labels]).sum()
    )
    torch.testing.assert_close(Loss(None, 0.0).distillation_sum(LOGITS, teacher, labels), losses.sum())


@pytest.mark.parametrize("labels", [torch.tensor([1, 0]), MULTI_LABELS], ids=["one label", "several labels"])
def test_temperature_divides_logits_and_keeps_the_size_of_gradients(labels: Tensor) -> None:
    loss, logits = Loss(None, 0.1), LOGITS.clone().requires_grad_()
    teacher = torch.tensor([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]], dtype=torch.float64)
    found = loss.distillation_sum(logits, teacher, labels, temperature=4.0)
    torch.testing.assert_close(found, 16.0 * loss.distillation_sum(LOGITS / 4.0, teacher, labels))
    (gradient,) = torch.autograd.grad(found, logits)
    # Of both cross-entropies the gradient by a logit is the difference of the probabilities, here times 16 / 4.
    torch.testing.assert_close(gradient, 4.0 * (class_probabilities(LOGITS / 4.0, labels) - teacher))
