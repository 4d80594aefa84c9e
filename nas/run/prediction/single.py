"""Classify one image with its text, or return their similarity."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from nas.common.boundary import check_regular_file
from nas.common.devices import CPU
from nas.common.errors import DataError
from nas.common.output import visible
from nas.common.precision import Precision
from nas.run.exported_model import Prediction, open_exported
from nas.run.prediction.rows import significant


class Answer(NamedTuple):
    """The prediction for one sample.

    Args:
        predictions: The most probable classes, the most probable first, and all predicted labels.
        has_several_labels: Whether a sample may have several labels.
    """

    predictions: Sequence[Prediction]
    has_several_labels: bool

    def lines(self) -> str:
        """Return the answer for a terminal, one class a line."""
        return "\n".join(
            f"{_on_one_line(entry.class_name)}: {entry.probability:.4f}{' yes' if entry.is_predicted else ''}"
            for entry in self.predictions
        )

    def json(self) -> str:
        """Return the answer as a JSON object on one line; several labels are a list."""
        predicted: str | list[str] = self.predictions[0].class_name
        if self.has_several_labels:
            predicted = [entry.class_name for entry in self.predictions if entry.is_predicted]
        probabilities = {entry.class_name: significant(entry.probability) for entry in self.predictions}
        return json.dumps({"prediction": predicted, "probabilities": probabilities}, ensure_ascii=False)


class Similarity(NamedTuple):
    """What a model for retrieval finds for one sample.

    Args:
        value: The dot product of the embeddings, which have unit length.
    """

    value: float

    def lines(self) -> str:
        """Return the answer for a terminal."""
        return f"similarity: {self.value:.4f}"

    def json(self) -> str:
        """Return the answer as a JSON object on one line."""
        return json.dumps({"similarity": significant(self.value)})


def _on_one_line(name: str) -> str:
    return visible(name).replace("\n", "\\n")


def classify(
    directory: Path,
    image: Path,
    text: str,
    top: int,
    *,
    device: torch.device = CPU,
    precision: Precision = "float32",
    accept_changed: bool = False,
    on_note: Callable[[str], None] | None = None,
) -> Answer | Similarity:
    """Return the most probable classes, and all predicted labels where a sample may have several.

    A model for retrieval returns the similarity of the image and its text.

    Args:
        directory: The folder of the exported model.
        image: The image file.
        text: The text of the image.
        top: The number of classes.
        device: The device to compute on.
        precision: The precision of products.
        accept_changed: Whether files of the folder may have been changed after the model was saved.
        on_note: The receiver of notes about the folder; by default they are warnings of Python.

    Raises:
        DataError: If the image does not exist or cannot be read.
        ExportError: If the folder holds no exported model, or a changed one.
    """
    check_regular_file(image, expected="an image file", error=DataError)
    exported = open_exported(
        directory, device=device, precision=precision, accept_changed=accept_changed, on_note=on_note
    )
    if exported.is_retrieval:
        embeddings = exported.logits([image], [text])[0]
        return Similarity(float(torch.dot(*embeddings.split(len(embeddings) // 2))))
    predictions = exported.predict([image], [text])[0]
    chosen = [entry for place, entry in enumerate(predictions) if entry.is_predicted or place < max(top, 1)]
    return Answer(chosen, exported.has_several_labels)
