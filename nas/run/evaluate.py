"""Evaluate exported models on a data set, from raw images and texts in float32."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nas.common.devices import CPU
from nas.common.errors import DataError
from nas.common.precision import Precision
from nas.config.data_schema import DataConfig
from nas.config.reader_registry import READERS
from nas.data.contents import DATA, describe_contents
from nas.data.dataset import open_dataset_images, read_all_samples, read_dataset
from nas.data.digests import image_digests
from nas.data.image_check import image_notes, without_unreadable
from nas.data.images import ImageSource
from nas.data.inputs import Input
from nas.data.samples import Dataset, Samples
from nas.run.exported_model import ExportedModel, open_exported
from nas.run.prediction.batches import checked_outcomes
from nas.training.class_scores import Details, describe_errors
from nas.training.metrics import evaluate_logits

ALL = "all"
"""The name of all splits together."""


class Evaluation(NamedTuple):
    """The outcome of an evaluation.

    Args:
        metrics: The metrics by name.
        num_samples: The number of samples.
        notes: What was evaluated, and what is worth knowing about the files, one line each.
        details: The scores of the classes, the confusion matrix and the calibration; None for retrieval.
    """

    metrics: dict[str, float]
    num_samples: int
    notes: list[str]
    details: Details | None


def evaluate_exported(
    directory: Path,
    data: DataConfig,
    split: str,
    *,
    device: torch.device = CPU,
    precision: Precision = "float32",
    accept_changed: bool = False,
    on_note: Callable[[str], None] | None = None,
) -> Evaluation:
    """Evaluate an exported model on a split.

    Args:
        directory: The folder of the exported model.
        data: The data set.
        split: The name of the split, or `ALL`.
        device: The device to compute on.
        precision: The precision of products.
        accept_changed: Whether files of the folder may have been changed after the model was saved.
        on_note: The receiver of notes about the folder; by default they are warnings of Python.

    Raises:
        ExportError: If the folder holds no model, or a changed one.
        DataError: If the data cannot be used, or has labels that are unknown to the model.
    """
    exported = open_exported(
        directory, device=device, precision=precision, accept_changed=accept_changed, on_note=on_note
    )
    return evaluate_model(exported, data, split)


def evaluate_model(exported: ExportedModel, data: DataConfig, split: str) -> Evaluation:
    """Evaluate an opened model on a split; see `evaluate_exported`."""
    several = exported.has_several_labels
    if data.is_retrieval != exported.is_retrieval:
        task = "retrieval" if exported.is_retrieval else "classification"
        raise DataError(f"{data.location}: data.task is {data.task}; expected {task}, the task of the model")
    if READERS[data.reader].has_label_keys:
        data = data.replace(labels="several" if several else "one")
    samples, notes = read_samples(data, split, exported.class_names)
    images = open_dataset_images(data)
    names = list(dict.fromkeys(samples.images))
    unreadable = images.find_unreadable(names) if data.skip_unreadable_images else []
    readable, skipped = without_unreadable(
        Dataset(exported.class_names, {split: samples}), images, unreadable, skip=data.skip_unreadable_images
    )
    samples = readable.splits[split]
    logits = logits_of_samples(exported, samples, images)
    return evaluation_of(exported, logits, samples, [*notes, *skipped, *image_notes(images)])


def evaluation_of(exported: ExportedModel, logits: Tensor, samples: Samples, notes: list[str]) -> Evaluation:
    """Return the evaluation of logits.

    Args:
        exported: The model.
        logits: Its logits, (N, C).
        samples: The samples, with their labels.
        notes: What is worth knowing about them.
    """
    threshold = exported.threshold if exported.has_several_labels else None
    labels = torch.from_numpy(samples.labels)
    details = None if exported.is_retrieval else describe_errors(logits, labels, exported.class_names, threshold)
    if exported.is_retrieval:
        images, texts = (len(np.unique(column)) for column in samples.labels.T)
        notes = [*notes, f"{images} different pictures and {texts} different texts are the galleries of each other"]
    notes = [*notes, *_precision_notes(exported)]
    return Evaluation(evaluate_logits(logits, labels, threshold), len(samples), notes, details)


def _precision_notes(exported: ExportedModel) -> list[str]:
    if exported.precision == "float32":
        return []
    return [f"products were computed in {exported.precision}; a search evaluates its models in float32 (--precision)"]


def read_samples(data: DataConfig, split: str, class_names: tuple[str, ...]) -> tuple[Samples, list[str]]:
    """Return the samples of a split, or all, and lines about them.

    Args:
        data: The data set.
        split: The name of the split, or `ALL`.
        class_names: The class names in the order of the logits.

    Raises:
        DataError: If the data cannot be used, or have labels that are unknown to the model.
    """
    if split == ALL:
        samples, notes = read_all_samples(data, class_names)
        lacks_split = READERS[data.reader].has_label_keys and data.columns.split is None
        why = "has no column of splits; " if lacks_split else ""
        return samples, [f"{data.location}: {why}all {len(samples)} samples are evaluated", *notes]
    dataset = read_dataset(data, (split,), class_names=class_names)
    samples, notes = dataset.splits[split], list(dataset.notes)
    if data.columns.split is None and READERS[data.reader].has_label_keys:
        notes.append(
            f"{data.location}: has no column of splits; the {len(samples)} samples of the {split} split are taken as "
            "for training (data.held_out); --split all evaluates all samples"
        )
    return samples, notes


def logits_of_samples(exported: ExportedModel, samples: Samples, images: ImageSource) -> Tensor:
    """Return the logits of all samples in order, (N, C).

    Args:
        exported: The model.
        samples: The samples.
        images: The source of their images.

    Raises:
        DataError: If an image cannot be read.
    """
    inputs = (
        Input(number, image, text)
        for number, (image, text) in enumerate(zip(samples.images, samples.texts, strict=True), start=1)
    )
    outcomes = checked_outcomes(exported.outcomes(inputs, images.open))
    return torch.stack([outcome.values for outcome in outcomes if outcome.values is not None])


def digest_of_test(data: DataConfig, class_names: tuple[str, ...], cache_directory: Path) -> str:
    """Return a digest of the test split's images, texts and labels; test metrics hold for this digest only.

    Args:
        data: The data set.
        class_names: The class names in the order of the logits.
        cache_directory: The cache, which has the digests of images.

    Raises:
        DataError: If the test split cannot be used.
    """
    dataset = read_dataset(data, ("test",), class_names=class_names)
    digests = image_digests(open_dataset_images(data), dataset.splits["test"].images, cache_directory)
    return describe_contents(dataset, digests, {}).summary()[DATA][:16]
