"""What the answer of a run predicts on validation: scores of the classes, and the worst errors with their pictures."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nas.common.errors import NasError
from nas.config.data_schema import DataConfig
from nas.data.dataset import open_dataset_images, read_dataset
from nas.data.image_check import without_unreadable
from nas.data.images import ImageSource
from nas.data.samples import SPLITS, Dataset, Samples
from nas.execution.worker_setup import kept_logits_path
from nas.models.fusion.ensemble import mean_logits
from nas.run.html_report.data import RunData
from nas.run.roles import BEST
from nas.training.class_scores import Details, describe_errors
from nas.training.kept_logits import read_logits
from nas.training.metrics import Predictions, evaluate_logits

_WORST = 12
_SIDE = 220
_QUALITY = 78
_MAX_DIFFERENCE = 1e-4


@dataclass(frozen=True)
class Mistake:
    """A sample of validation on which the answer is wrong.

    Args:
        text: Its text.
        image: The name of its image.
        picture: A small copy of the image as a data URL; None if the image cannot be read.
        truth: Its labels.
        guess: The labels that are predicted.
        confidence: The probability of the wrong prediction: of the predicted class, or of the label that is most wrong.
        truth_probability: The probability that the answer gives to the truth, or to the label that is most wrong.
    """

    text: str
    image: str
    picture: str | None
    truth: tuple[str, ...]
    guess: tuple[str, ...]
    confidence: float
    truth_probability: float


@dataclass(frozen=True)
class ValidationDetails:
    """How the answer errs on validation.

    Args:
        details: The scores of the classes, the confusion matrix and the calibration.
        mistakes: The worst errors, the most confident first.
        error_count: The number of samples with an error.
        sample_count: The number of samples.
        has_several_labels: Whether a sample may have several labels.
    """

    details: Details
    mistakes: Sequence[Mistake]
    error_count: int
    sample_count: int
    has_several_labels: bool


def validation_details(data: RunData) -> ValidationDetails | str:
    """Return how the answer errs on validation, from the logits that its trainings have kept; or why that is not known.

    Of the test split nothing is used: the data set is read as a whole only to find the same validation samples again.

    Args:
        data: The content of the run directory.
    """
    members = data.answer_members
    if not members:
        return "Known when the search has ended and its answer is evaluated."
    try:
        samples = _validation_samples(data.config.data, tuple(data.class_names))
    except NasError as error:
        return f"The data set cannot be read: {error}"
    shape = (len(samples), len(data.class_names))
    found = [read_logits(kept_logits_path(data.directory, result.key), result, shape) for result, _ in members]
    logits = [entry for entry in found if entry is not None]
    if len(logits) < len(found):
        return "The validation logits of the answer are not kept, or are those of other samples."
    several = samples.labels.ndim == 2
    mean = mean_logits(logits, [weight for _, weight in members], has_several_labels=several)
    labels = torch.from_numpy(samples.labels)
    known = data.report[BEST]["validation"]
    # The samples are those that the search has used if they give the same metrics.
    measured = evaluate_logits(mean, labels)
    if any(abs(measured[name] - known[name]) > _MAX_DIFFERENCE for name in measured.keys() & known.keys()):
        return "The data set is no longer the one that the answer was selected on: its metrics differ."
    try:
        images: ImageSource | None = open_dataset_images(data.config.data)
    except NasError:
        images = None
    return describe_predictions(mean, samples, data.class_names, known.get("threshold") if several else None, images)


def describe_predictions(
    logits: Tensor, samples: Samples, class_names: Sequence[str], threshold: float | None, images: ImageSource | None
) -> ValidationDetails:
    """Return how a model errs on samples.

    Args:
        logits: The logits, (N, C).
        samples: The samples.
        class_names: The names of the classes in the order of the logits.
        threshold: The probability above which a label is predicted, where a sample may have several; else None.
        images: The source of their images; None if there is none.
    """
    labels = torch.from_numpy(samples.labels)
    predictions = Predictions(logits, labels, threshold)
    wrong, order = _worst(predictions, labels)
    return ValidationDetails(
        details=describe_errors(logits, labels, class_names, threshold),
        mistakes=[_mistake(index, samples, predictions, class_names, images) for index in order[:_WORST]],
        error_count=wrong,
        sample_count=len(samples),
        has_several_labels=predictions.is_multi_label,
    )


def _validation_samples(config: DataConfig, class_names: tuple[str, ...]) -> Samples:
    """Return the validation samples as the search has read them."""
    dataset = read_dataset(config, SPLITS, class_names=class_names)
    validation = Dataset(class_names, {"validation": dataset.splits["validation"]})
    if not config.skip_unreadable_images:
        return validation.splits["validation"]
    images = open_dataset_images(config)
    unreadable = images.find_unreadable(list(dict.fromkeys(validation.splits["validation"].images)))
    return without_unreadable(validation, images, unreadable, skip=True)[0].splits["validation"]


def _worst(predictions: Predictions, labels: Tensor) -> tuple[int, list[int]]:
    """Return the number of samples with an error, and their indices, the worst first."""
    probabilities = predictions.probabilities
    if predictions.is_multi_label:
        truth = labels > 0
        wrong = ((probabilities > predictions.threshold) != truth).any(dim=1)
        badness = torch.where(truth, 1 - probabilities, probabilities).max(dim=1).values
    else:
        wrong = predictions.classes != labels
        chosen, own = (probabilities.gather(1, index[:, None])[:, 0] for index in (predictions.classes, labels))
        badness = chosen - own
    indices = wrong.nonzero()[:, 0]
    order = indices[badness[indices].argsort(descending=True, stable=True)]
    return len(indices), order.tolist()


def _mistake(
    index: int, samples: Samples, predictions: Predictions, class_names: Sequence[str], images: ImageSource | None
) -> Mistake:
    probabilities = predictions.probabilities[index]
    if predictions.is_multi_label:
        truth = np.asarray(samples.labels[index]) > 0
        guess = (probabilities > predictions.threshold).numpy()
        wrongness = np.where(truth, 1 - probabilities.numpy(), probabilities.numpy())
        worst = int(wrongness.argmax())
        shares = float(probabilities[worst]), float(probabilities[worst])
        names = [tuple(name for name, has in zip(class_names, row, strict=True) if has) for row in (truth, guess)]
    else:
        own, chosen = int(samples.labels[index]), int(predictions.classes[index])
        shares = float(probabilities[chosen]), float(probabilities[own])
        names = [(class_names[own],), (class_names[chosen],)]
    picture = None if images is None else _thumbnail(images, samples.images[index])
    return Mistake(samples.texts[index], samples.images[index], picture, names[0], names[1], shares[0], shares[1])


def _thumbnail(images: ImageSource, name: str) -> str | None:
    """Return a small copy of an image as a data URL; None if the image cannot be read."""
    try:
        image = images.open(name)
    except NasError:
        return None
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
