"""Ask exported models about every sample of a split, from raw images and texts, and count their right answers."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.config.data_schema import DataConfig
from nas.data.dataset import open_dataset_images, read_dataset
from nas.data.samples import Labels
from nas.run.evaluate import logits_of_samples
from nas.run.exported_model import open_exported

Counts = NDArray[np.float64]
"""The metric of a model as a ratio: numerator and denominator of each picture, (2, pictures)."""


def counted(work: tuple[DataConfig, str, str, Path]) -> Counts:
    """Return the counts of a model on a split; see `counts_of`.

    Args:
        work: The data, the split, the metric and the folder of the model.
    """
    data, split, metric, model = work
    exported = open_exported(model)
    samples = read_dataset(data, (split,), class_names=exported.class_names, compares_images=False).splits[split]
    logits = logits_of_samples(exported, samples, open_dataset_images(data))
    if exported.has_several_labels:
        logits = logits - math.log(exported.threshold / (1 - exported.threshold))
    return counts_of(logits.numpy(), samples.labels, samples.images, metric)


def counts_of(logits: NDArray[np.float32], labels: Labels, images: Sequence[str], metric: str) -> Counts:
    """Return numerator and denominator of a metric, summed over the samples of each picture.

    Accuracy is the number of right answers over that of samples; micro F1 is twice the number of right labels over that
    of predicted and true ones (a label is predicted above the threshold of the model).

    Args:
        logits: The logits, (samples, classes); of several labels, relative to the threshold.
        labels: The labels; see `nas.data.samples.Labels`.
        images: The picture of each sample.
        metric: accuracy or micro_f1_tuned.

    Raises:
        ValueError: If the metric is no such ratio, or logits and labels are of different samples.
    """
    if len(logits) != len(labels):
        raise ValueError(f"predictions: expected those of {len(labels)} samples, got {len(logits)}")
    if metric not in _PARTS:
        raise ValueError(f"metric: expected one of {', '.join(_PARTS)}, got {metric}")
    pictures = np.unique(np.array(images), return_inverse=True)[1]
    return np.stack([np.bincount(pictures, weights=part) for part in _PARTS[metric](logits, labels)])


def _accuracy(logits: NDArray[np.float32], labels: Labels) -> tuple[Counts, Counts]:
    if labels.ndim == 2:
        raise ValueError("accuracy: expected one label for each sample, got several")
    return (logits.argmax(axis=1) == labels).astype(np.float64), np.ones(len(labels))


def _micro_f1(logits: NDArray[np.float32], labels: Labels) -> tuple[Counts, Counts]:
    predicted, true = logits > 0, labels > 0
    return 2.0 * (predicted & true).sum(axis=1), (predicted.sum(axis=1) + true.sum(axis=1)).astype(np.float64)


_PARTS: Mapping[str, Callable[[NDArray[np.float32], Labels], tuple[Counts, Counts]]] = {
    "accuracy": _accuracy,
    "micro_f1_tuned": _micro_f1,
}
