"""Classify one image with its text."""

from dataclasses import dataclass
from pathlib import Path

from nas.common.errors import DataError
from nas.data.images import open_images
from nas.run.exported_model import open_exported


@dataclass(frozen=True)
class Prediction:
    """The probability of one class.

    Args:
        class_name: The name of the class.
        probability: Its probability.
        is_predicted: Whether the label is predicted, where a sample may have several labels; else False.
    """

    class_name: str
    probability: float
    is_predicted: bool


def classify(directory: Path, image: Path, text: str, top: int) -> list[Prediction]:
    """Return the most probable classes, and all predicted labels where a sample may have several.

    Args:
        directory: The folder of the exported model.
        image: The image file.
        text: The text of the image.
        top: The number of classes.

    Raises:
        DataError: If the image does not exist or cannot be read.
        ExportError: If the folder holds no exported model.
    """
    if not image.is_file():
        raise DataError(f"{image}: no such image file")
    exported = open_exported(directory)
    picture = open_images(image.parent).open(image.name)
    values, indices = exported.probabilities([picture], [text])[0].sort(descending=True)
    predictions = [
        Prediction(exported.class_names[index], value, exported.has_several_labels and value > exported.threshold)
        for value, index in zip(values.tolist(), indices.tolist(), strict=True)
    ]
    return [
        prediction for place, prediction in enumerate(predictions) if prediction.is_predicted or place < max(top, 1)
    ]
