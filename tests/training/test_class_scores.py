"""Scores of classes, confusion matrix and calibration, against scikit-learn and definitions written out."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, multilabel_confusion_matrix, precision_recall_fscore_support

from nas.training.class_scores import NUM_BINS, describe_errors, reliability

NAMES = ("a", "b", "c", "d", "never")


@pytest.fixture
def logits() -> torch.Tensor:
    values = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    values[:, 4] -= 100
    return values


def test_scores_and_confusion_of_single_labels_are_those_of_scikit_learn(logits: torch.Tensor) -> None:
    labels = torch.randint(0, 4, (200,), generator=torch.Generator().manual_seed(1))
    details = describe_errors(logits, labels, NAMES, None)
    predicted = logits.argmax(dim=1).numpy()
    assert (details.confusion == confusion_matrix(labels, predicted, labels=range(5))).all()
    expected = precision_recall_fscore_support(labels, predicted, labels=range(5), zero_division=np.nan)
    for index, entry in enumerate(details.classes[:4]):
        assert entry[3:] == pytest.approx([values[index] for values in expected[:3]])
        assert entry.samples == expected[3][index] and entry.predicted == (predicted == index).sum()
    assert details.classes[4] == ("never", 0, 0, None, None, None)


def test_scores_and_confusion_of_several_labels_are_those_of_scikit_learn(logits: torch.Tensor) -> None:
    labels = torch.randint(0, 2, (200, 5), generator=torch.Generator().manual_seed(1)).float()
    details = describe_errors(logits, labels, NAMES, 0.4)
    predicted = (logits.sigmoid() > 0.4).numpy()
    assert (details.confusion == multilabel_confusion_matrix(labels, predicted)).all()
    expected = precision_recall_fscore_support(labels, predicted, zero_division=np.nan)
    for index, entry in enumerate(details.classes[:4]):
        assert entry[3:] == pytest.approx([values[index] for values in expected[:3]])
    assert details.classes[4].precision is None and details.classes[4].recall == details.classes[4].f1 == 0
    assert sum(entry.predictions for entry in details.bins) == 1000


def test_calibration_error_is_the_mean_gap_between_confidence_and_accuracy(logits: torch.Tensor) -> None:
    labels = torch.randint(0, 4, (200,), generator=torch.Generator().manual_seed(1))
    confidence, predicted = logits.double().softmax(dim=1).max(dim=1)
    expected = 0.0
    for index in range(NUM_BINS):
        low, high = index / NUM_BINS, (index + 1) / NUM_BINS
        chosen = [place for place, value in enumerate(confidence.tolist()) if low < value <= high]
        right = sum(bool(predicted[place] == labels[place]) for place in chosen)
        expected += abs(right - sum(float(confidence[place]) for place in chosen)) / 200
    details = describe_errors(logits, labels, NAMES, None)
    assert details.calibration_error == pytest.approx(expected, abs=1e-6)
    assert details.as_dict()["expected_calibration_error"] == details.calibration_error


def test_ends_of_the_bins_are_in_one_of_them() -> None:
    bins = reliability(np.array([0.0, 1.0, 1.0, 0.5]), np.array([False, True, False, True]))
    assert bins[0].predictions == 1 and (bins[0].confidence, bins[0].accuracy) == (0, 0)
    assert bins[-1].predictions == 2 and (bins[-1].confidence, bins[-1].accuracy) == (1, 0.5)
    assert bins[1].confidence is None and bins[1].accuracy is None
    assert bins[0].low == 0 and bins[-1].high == 1 and all(a.high == b.low for a, b in pairwise(bins))
