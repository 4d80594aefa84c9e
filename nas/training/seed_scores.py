"""Score one training on validation in the form in which the race compares trainings (`nas.search.racing`)."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.common.registry import load_object
from nas.data.samples import label_kind
from nas.search.metric_registry import METRICS
from nas.search.racing import SeedScores, scores_of_draws, scores_of_samples
from nas.training.metrics import DEFAULT_THRESHOLD, Predictions
from nas.training.retrieval import ranks_of

_DRAWS = 200
"""The number of bootstrap draws of the validation samples, for metrics that are not a mean over samples."""


def seed_scores(
    logits: Tensor,
    labels: Tensor,
    metric: str,
    *,
    groups: NDArray[np.int64] | None = None,
    has_luck: bool = True,
) -> SeedScores:
    """Return the score of one training, and how it depends on the samples.

    The variance of accuracy over samples is exact; that of other metrics comes from bootstrap draws, which are the same
    for all trainings, and on which a threshold that the metric tunes is tuned again. For retrieval, what is drawn are
    the pictures as queries, each with its texts as queries; a text of several goes with the first. The galleries stay
    whole, since an item that is drawn twice would be a tie.

    Args:
        logits: The validation logits, (N, C); for retrieval the embeddings, (N, 2E).
        labels: Class indices, int64, (N,); for multi-label data 1 for each label of a sample, float32, (N, C); for
            retrieval the items of each row, int64, (N, 2).
        metric: The name of the metric.
        groups: The group of every sample, (N,); see `scores_of_samples`.
        has_luck: Whether another seed would give another model.

    Raises:
        ValueError: If there are fewer than two samples.
    """
    if label_kind(labels) == "pairs":
        return _retrieval_scores(logits, labels, metric, has_luck=has_luck)
    if groups is not None:
        groups = np.unique(groups, return_inverse=True)[1]
    if metric == "accuracy":
        correct = _correct(Predictions(logits, labels)).to(torch.float64).numpy()
        return scores_of_samples(correct[None], groups=groups, has_luck=has_luck)
    function = load_object(METRICS[metric].function)

    def score(rows: NDArray[np.int64]) -> float:
        chosen = torch.from_numpy(rows)
        return METRICS[metric].score(float(function(Predictions(logits[chosen], labels[chosen]))))

    everything = np.arange(len(labels))
    drawn = [score(rows) for rows in _draws(everything if groups is None else groups)]
    return scores_of_draws(np.array([score(everything)]), np.array([drawn]), has_luck=has_luck)


def _retrieval_scores(outputs: Tensor, items: Tensor, metric: str, *, has_luck: bool) -> SeedScores:
    function, ranks = load_object(METRICS[metric].function), ranks_of(outputs, items)
    count = len(ranks.images)
    draws = (np.bincount(pictures, minlength=count) for pictures in _draws(np.arange(count)))
    drawn = [METRICS[metric].score(float(function(ranks.drawn(counts)))) for counts in draws]
    score = METRICS[metric].score(float(function(ranks)))
    return scores_of_draws(np.array([score]), np.array([drawn]), has_luck=has_luck)


def _correct(predictions: Predictions) -> Tensor:
    """Return whether each prediction is right, (N,), as `nas.training.metrics.accuracy` counts."""
    if predictions.is_multi_label:
        predicted = predictions.probabilities > DEFAULT_THRESHOLD
        return (predicted == predictions.indicators.bool()).all(dim=1)
    return predictions.classes == predictions.labels


def _draws(groups: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the samples of every draw: groups are drawn with replacement, as many as there are.

    Raises:
        ValueError: If there are fewer than two groups.
    """
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    if len(members) < 2:
        raise ValueError(f"validation: expected at least 2 samples, got {len(members)}")
    rng = np.random.default_rng(0)
    return [
        np.concatenate([members[place] for place in rng.integers(len(members), size=len(members))])
        for _ in range(_DRAWS)
    ]
