"""The scores of one training in the form in which the race compares trainings."""

import numpy as np
import pytest
import torch

from nas.training.metrics import evaluate_logits
from nas.training.seed_scores import seed_scores

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(120, 3, generator=GENERATOR)
CLASSES = torch.randint(3, (120,), generator=GENERATOR)
LABELS = (torch.rand(120, 3, generator=GENERATOR) < 0.4).to(torch.float32)


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "balanced_accuracy"])
def test_score_is_that_of_the_evaluation(metric: str) -> None:
    assert seed_scores(LOGITS, CLASSES, metric).mean == pytest.approx(evaluate_logits(LOGITS, CLASSES)[metric])


@pytest.mark.parametrize("metric", ["accuracy", "micro_f1_tuned", "mean_average_precision"])
def test_score_with_several_labels_is_that_of_the_evaluation(metric: str) -> None:
    assert seed_scores(LOGITS, LABELS, metric).mean == pytest.approx(evaluate_logits(LOGITS, LABELS)[metric])


def test_variance_of_accuracy_is_that_of_a_fraction() -> None:
    scores = seed_scores(LOGITS, CLASSES, "accuracy")
    share = scores.mean
    assert float((scores.effects**2).sum()) == pytest.approx(share * (1 - share) / 119)


def test_variance_of_another_metric_comes_from_draws_of_the_samples() -> None:
    # Of two classes that are equally frequent, the balanced accuracy has nearly the variance of the accuracy.
    classes = torch.arange(400) % 2
    logits = torch.randn(400, 2, generator=torch.Generator().manual_seed(1))
    drawn, exact = (seed_scores(logits, classes, metric) for metric in ("balanced_accuracy", "accuracy"))
    assert drawn.effects.shape == (1, 200)
    assert float((drawn.effects**2).sum()) == pytest.approx(float((exact.effects**2).sum()), rel=0.25)
    again = seed_scores(logits, classes, "balanced_accuracy")
    assert again.effects.tolist() == drawn.effects.tolist(), "all trainings have the same draws"


def test_groups_of_samples_are_drawn_together() -> None:
    groups = np.arange(120) // 4
    alone, grouped = (seed_scores(LOGITS, CLASSES, "macro_f1", groups=given) for given in (None, groups))
    assert alone.mean == grouped.mean and alone.effects.tolist() != grouped.effects.tolist()
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        seed_scores(LOGITS, CLASSES, "macro_f1", groups=np.zeros(120, np.int64))
