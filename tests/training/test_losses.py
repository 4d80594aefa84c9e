import numpy as np
import pytest
import torch
from torch import Tensor

from nas.training.losses import Loss, class_weights, probabilities

WEIGHTS = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
LOGITS = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]], dtype=torch.float64)
SEVERAL = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)


def spelled_out(targets: Tensor, weights: Tensor) -> Tensor:
    """Binary cross-entropies by their definition, summed; those of labels that are there are weighted."""
    share = 1 / (1 + torch.exp(-LOGITS))
    weights = torch.where(SEVERAL == 1, weights, 1)
    return -(weights * (targets * share.log() + (1 - targets) * (1 - share).log())).sum()


def test_class_weights_are_the_inverse_frequency() -> None:
    weights = class_weights(np.array([0, 0, 0, 1]), 2, "inverse_frequency")
    assert weights is not None
    assert weights.tolist() == pytest.approx([4 / (2 * 3), 4 / (2 * 1)])
    several = class_weights(np.array([[1, 0], [1, 1], [1, 0], [0, 0]], dtype=np.float32), 2, "inverse_frequency")
    assert several is not None and several.tolist() == pytest.approx([4 / (2 * 3), 4 / (2 * 1)])
    assert class_weights(np.array([0, 1]), 2, "none") is None


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_the_loss_of_several_labels_is_the_weighted_sum_over_the_total_weight(
    weights: Tensor | None, smoothing: float
) -> None:
    loss = Loss(weights, smoothing)
    used = torch.ones(3, dtype=torch.float64) if weights is None else weights
    smoothed = SEVERAL * (1 - smoothing) + smoothing / 2
    torch.testing.assert_close(loss.summed(LOGITS, SEVERAL), spelled_out(smoothed, used))
    expected = 6.0 if weights is None else 0.5 + 1 + 4  # one weighs 0.5, one 1, and four labels are not there
    assert loss.total_weight(SEVERAL.to(torch.float32).numpy()) == expected


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_the_loss_of_one_label_weighs_a_sample_as_its_class(weights: Tensor | None, smoothing: float) -> None:
    labels = torch.tensor([1, 0])
    target = torch.nn.functional.one_hot(labels, 3) * (1 - smoothing) + smoothing / 3
    each = -(target * LOGITS.log_softmax(dim=1)).sum(dim=1)
    used = torch.ones(3, dtype=torch.float64) if weights is None else weights
    loss = Loss(weights, smoothing)
    torch.testing.assert_close(loss.summed(LOGITS, labels), (each * used[labels]).sum())
    assert loss.total_weight(labels.numpy()) == (2.0 if weights is None else 2.5)


@pytest.mark.parametrize("is_several", [False, True])
def test_what_is_best_for_a_sample_does_not_depend_on_the_weights_of_classes_that_it_has_not(is_several: bool) -> None:
    labels = torch.tensor([0])
    label = torch.nn.functional.one_hot(labels, 3).double() if is_several else labels
    target = torch.nn.functional.one_hot(labels, 3) * 0.9 + 0.1 / (2 if is_several else 3)
    logits = (target.logit() if is_several else target.log()).requires_grad_()  # probabilities are the target
    Loss(torch.tensor([0.5, 2.0, 100.0], dtype=torch.float64), 0.1).summed(logits, label).backward()
    assert logits.grad is not None and logits.grad.abs().max() < 1e-6


def test_a_teacher_is_in_the_place_of_several_labels() -> None:
    lesson = probabilities(torch.tensor([[0.0, 1.0, 2.0], [3.0, -1.0, 0.0]], dtype=torch.float64), SEVERAL)
    assert lesson[0, 0] == 0.5 and lesson[1, 2] == 0.5
    torch.testing.assert_close(Loss(WEIGHTS, 0.1).distance(LOGITS, lesson, SEVERAL), spelled_out(lesson, WEIGHTS))


def test_a_teacher_is_in_the_place_of_one_label() -> None:
    labels = torch.tensor([1, 0])
    lesson = probabilities(torch.tensor([[0.0, 1.0, 2.0], [3.0, -1.0, 0.0]], dtype=torch.float64), labels)
    torch.testing.assert_close(lesson.sum(dim=1), torch.ones(2, dtype=torch.float64))
    each = -(lesson * LOGITS.log_softmax(dim=1)).sum(dim=1)
    torch.testing.assert_close(Loss(WEIGHTS, 0.0).distance(LOGITS, lesson, labels), (each * WEIGHTS[labels]).sum())
    torch.testing.assert_close(Loss(None, 0.0).distance(LOGITS, lesson, labels), each.sum())
