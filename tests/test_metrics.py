import math

import pytest
import torch

from nas.metrics import evaluate_logits, standard_error


def test_metrics_are_those_counted_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0], [2.0, 1.0]])  # predicted 0, 0, 1, 0
    labels = torch.tensor([0, 0, 1, 1])
    metrics = evaluate_logits(logits, labels)
    # Class 0: recall 1, precision 2/3, F1 0.8; class 1: recall 1/2, precision 1, F1 2/3.
    assert metrics["accuracy"] == 0.75
    assert metrics["balanced_accuracy"] == pytest.approx((1 + 0.5) / 2)
    assert metrics["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    margins = [2.0, 1.0, 3.0, -1.0]  # of the true class over the other
    assert metrics["cross_entropy"] == pytest.approx(sum(math.log1p(math.exp(-margin)) for margin in margins) / 4)


def test_standard_error_of_a_share() -> None:
    assert standard_error(0.5, 100) == pytest.approx(0.05)
    assert standard_error(1.0, 7) == 0.0
