"""Metrics against values counted by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from nas.training.metrics import evaluate_logits, standard_error, tune_threshold


def test_single_label_metrics_match_hand_counts() -> None:
    logits = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0], [2.0, 1.0]])  # predicted 0, 0, 1, 0
    labels = torch.tensor([0, 0, 1, 1])
    metrics = evaluate_logits(logits, labels)
    # Class 0: recall 1, precision 2/3, F1 0.8; class 1: recall 1/2, precision 1, F1 2/3.
    assert metrics["accuracy"] == 0.75
    assert metrics["balanced_accuracy"] == pytest.approx((1 + 0.5) / 2)
    assert metrics["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert metrics["micro_f1"] == 0.75
    # In both classes the first score is right; of the next two, which are tied, one is right.
    assert metrics["mean_average_precision"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    margins = [2.0, 1.0, 3.0, -1.0]  # logit of the true class minus that of the other
    assert metrics["cross_entropy"] == pytest.approx(sum(math.log1p(math.exp(-margin)) for margin in margins) / 4)


def test_balanced_accuracy_ignores_classes_that_do_not_occur() -> None:
    logits = torch.eye(3)[[0, 2, 1, 1]]
    metrics = evaluate_logits(logits, torch.tensor([0, 0, 1, 1]))
    assert metrics["balanced_accuracy"] == pytest.approx((0.5 + 1) / 2), "class 2 is predicted but does not occur"


def test_standard_error_of_a_fraction() -> None:
    assert standard_error(0.5, 100) == pytest.approx(0.05)
    assert standard_error(1.0, 7) == 0.0


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def test_multi_label_metrics_match_hand_counts() -> None:
    probabilities = [[0.9, 0.2, 0.3], [0.6, 0.7, 0.1], [0.2, 0.425, 0.3], [0.1, 0.1, 0.1]]
    logits = torch.tensor([[logit(probability) for probability in row] for row in probabilities])
    labels = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 0]])
    metrics = evaluate_logits(logits, labels)
    # Above 0.5 three labels are predicted: two are right, one of three is missed. Class 2 never occurs.
    assert metrics["micro_f1"] == pytest.approx(2 * 2 / (3 + 3))
    assert metrics["macro_f1"] == pytest.approx((2 * 1 / (2 + 1) + 2 * 1 / (1 + 2) + 0) / 3)
    assert metrics["accuracy"] == 0.5
    assert metrics["mean_average_precision"] == pytest.approx(1.0)
    # From 0.3 to 0.42 four labels are predicted, among them all three positive ones.
    assert metrics["threshold"] == pytest.approx(0.42) and tune_threshold(logits, labels) == metrics["threshold"]
    assert metrics["micro_f1_tuned"] == pytest.approx(2 * 3 / (4 + 3))
    assert metrics["macro_f1_tuned"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    likelihoods = [
        probability if label else 1 - probability
        for row, row_labels in zip(probabilities, labels.tolist(), strict=True)
        for probability, label in zip(row, row_labels, strict=True)
    ]
    assert metrics["cross_entropy"] == pytest.approx(-sum(map(math.log, likelihoods)) / 12, rel=1e-6)


def test_given_threshold_is_used() -> None:
    logits, labels = torch.tensor([[logit(0.8), -5], [logit(0.3), -5]]), torch.tensor([[1.0, 0], [1.0, 0]])
    assert evaluate_logits(logits, labels)["micro_f1_tuned"] == 1.0
    metrics = evaluate_logits(logits, labels, threshold=0.6)
    assert metrics["micro_f1_tuned"] == pytest.approx(2 / 3) and "threshold" not in metrics


def test_mean_average_precision_of_confident_logits_ranks_them_without_saturation() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(60, 4, generator=generator) * 15 + 40  # every probability is 1 in float32
    labels = (torch.randn(60, 4, generator=generator) * 15 + logits > 40).float()
    assert bool((logits.sigmoid() == 1).float().mean() > 0.8)
    expected = np.mean([average_precision_score(labels[:, c], logits[:, c]) for c in range(4)])
    assert evaluate_logits(logits, labels)["mean_average_precision"] == pytest.approx(expected, abs=1e-6)
    assert evaluate_logits(logits - 200, labels)["mean_average_precision"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("scale", [1.0, 60.0, 1e4])
def test_mean_average_precision_of_single_labels_ranks_exact_probabilities(scale: float) -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(50) % 3
    logits = torch.randn(50, 3, generator=generator) * scale + scale * torch.eye(3)[labels]
    logits[10:20] = logits[:10]  # ties
    exact = logits.to(torch.float64)
    log_odds = torch.stack(
        [exact[:, c] - exact[:, [k for k in range(3) if k != c]].logsumexp(dim=1) for c in range(3)], dim=1
    )
    scores = np.round(log_odds.numpy() / scale, 9)
    expected = np.mean([average_precision_score(labels == c, scores[:, c]) for c in range(3)])
    assert evaluate_logits(logits, labels)["mean_average_precision"] == pytest.approx(expected, abs=1e-6)


@given(st.integers(0, 10**6), st.sampled_from([2, 3, 7]), st.sampled_from([0.1, 1.0, 100.0]))
@settings(max_examples=25, deadline=None)
def test_mean_average_precision_equals_that_of_scikit_learn(seed: int, classes: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(30, classes, generator=generator) * 4).round() / 4 * scale  # with ties
    labels = (torch.rand(30, classes, generator=generator) < 0.3).float()
    labels[0] = 1
    expected = np.mean([average_precision_score(labels[:, c], logits[:, c]) for c in range(classes)])
    assert evaluate_logits(logits, labels)["mean_average_precision"] == pytest.approx(expected, abs=1e-5)


def test_logits_of_one_sample_and_of_one_value_have_an_average_precision() -> None:
    assert evaluate_logits(torch.zeros(1, 2), torch.tensor([1]))["mean_average_precision"] == 1.0
    metrics = evaluate_logits(torch.zeros(4, 2), torch.tensor([0, 0, 0, 1]))
    assert metrics["mean_average_precision"] == pytest.approx((0.75 + 0.25) / 2)
