"""Classify one image with its text."""

from collections.abc import Callable
from pathlib import Path

import torch

from nas.common.boundary import check_regular_file
from nas.common.devices import CPU
from nas.common.errors import DataError
from nas.run.exported_model import Prediction, open_exported


def classify(
    directory: Path,
    image: Path,
    text: str,
    top: int,
    *,
    device: torch.device = CPU,
    accept_changed: bool = False,
    on_note: Callable[[str], None] | None = None,
) -> list[Prediction]:
    """Return the most probable classes, and all predicted labels where a sample may have several.

    Args:
        directory: The folder of the exported model.
        image: The image file.
        text: The text of the image.
        top: The number of classes.
        device: The device to compute on.
        accept_changed: Whether files of the folder may have been changed after the model was saved.
        on_note: The receiver of notes about the folder; by default they are warnings of Python.

    Raises:
        DataError: If the image does not exist or cannot be read.
        ExportError: If the folder holds no exported model, or a changed one.
    """
    check_regular_file(image, expected="an image file", error=DataError)
    exported = open_exported(directory, device=device, accept_changed=accept_changed, on_note=on_note)
    predictions = exported.predict([image], [text])[0]
    return [
        prediction for place, prediction in enumerate(predictions) if prediction.is_predicted or place < max(top, 1)
    ]
