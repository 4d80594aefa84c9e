import math

import pytest
import torch

from nas.training.metrics import evaluate_logits, standard_error, tuned_threshold


def test_metrics_are_those_counted_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0], [2.0, 1.0]])  # predicted 0, 0, 1, 0
    labels = torch.tensor([0, 0, 1, 1])
    metrics = evaluate_logits(logits, labels)
    # Class 0: recall 1, precision 2/3, F1 0.8; class 1: recall 1/2, precision 1, F1 2/3.
    assert metrics["accuracy"] == 0.75
    assert metrics["balanced_accuracy"] == pytest.approx((1 + 0.5) / 2)
    assert metrics["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert metrics["micro_f1"] == 0.75
    # Of both classes: the first is right, and of the two that come next, at one score, one is.
    assert metrics["mean_average_precision"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    margins = [2.0, 1.0, 3.0, -1.0]  # of the true class over the other
    assert metrics["cross_entropy"] == pytest.approx(sum(math.log1p(math.exp(-margin)) for margin in margins) / 4)


def test_balanced_accuracy_is_of_the_classes_that_occur() -> None:
    logits = torch.eye(3)[[0, 2, 1, 1]]
    metrics = evaluate_logits(logits, torch.tensor([0, 0, 1, 1]))
    assert metrics["balanced_accuracy"] == pytest.approx((0.5 + 1) / 2), "class 2 is predicted and does not occur"


def test_standard_error_of_a_share() -> None:
    assert standard_error(0.5, 100) == pytest.approx(0.05)
    assert standard_error(1.0, 7) == 0.0


def logit(share: float) -> float:
    return math.log(share / (1 - share))


def test_metrics_of_several_labels_are_those_counted_by_hand() -> None:
    shares = [[0.9, 0.2, 0.3], [0.6, 0.7, 0.1], [0.2, 0.425, 0.3], [0.1, 0.1, 0.1]]
    logits = torch.tensor([[logit(share) for share in row] for row in shares])
    labels = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 0]])
    metrics = evaluate_logits(logits, labels)
    # From 0.5 on, three are said to be there: two are right, one of three is missed. Class 2 never occurs.
    assert metrics["micro_f1"] == pytest.approx(2 * 2 / (3 + 3))
    assert metrics["macro_f1"] == pytest.approx((2 * 1 / (2 + 1) + 2 * 1 / (1 + 2) + 0) / 3)
    assert metrics["accuracy"] == 0.5
    assert metrics["mean_average_precision"] == pytest.approx(1.0)
    # From 0.3 to 0.42, four: all three that are there among them.
    assert metrics["threshold"] == pytest.approx(0.42) and tuned_threshold(logits, labels) == metrics["threshold"]
    assert metrics["micro_f1_tuned"] == pytest.approx(2 * 3 / (4 + 3))
    assert metrics["macro_f1_tuned"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    likely = [
        share if there else 1 - share
        for row, of in zip(shares, labels.tolist(), strict=True)
        for share, there in zip(row, of, strict=True)
    ]
    assert metrics["cross_entropy"] == pytest.approx(-sum(map(math.log, likely)) / 12, rel=1e-6)


def test_a_threshold_that_was_tuned_elsewhere_is_taken_as_it_is() -> None:
    logits, labels = torch.tensor([[logit(0.8), -5], [logit(0.3), -5]]), torch.tensor([[1.0, 0], [1.0, 0]])
    assert evaluate_logits(logits, labels)["micro_f1_tuned"] == 1.0
    metrics = evaluate_logits(logits, labels, threshold=0.6)
    assert metrics["micro_f1_tuned"] == pytest.approx(2 / 3) and "threshold" not in metrics
