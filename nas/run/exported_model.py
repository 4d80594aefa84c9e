"""Open exported models and predict with them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from torch import Tensor

from nas.common.errors import ExportError
from nas.config.reader_registry import READERS
from nas.data.preprocessing import Preprocessor
from nas.models.classifier import MULTI_LABEL, FusionConfig, FusionForClassification
from nas.models.encoders.pretrained import load_image_processor, load_tokenizer
from nas.models.model_seals import CONFIG, DESCRIPTION


@dataclass(frozen=True)
class ExportedModel:
    """An exported model, loaded from its folder.

    Args:
        model: The classifier, in evaluation mode and float32.
        preprocessor: The image processor and tokenizer of the folder.
        class_names: The class names in the order of the logits.
    """

    model: FusionForClassification
    preprocessor: Preprocessor
    class_names: tuple[str, ...]

    @property
    def has_several_labels(self) -> bool:
        """Whether a sample may have several labels."""
        return str(self.model.config.problem_type) == MULTI_LABEL

    @property
    def threshold(self) -> float:
        """The probability above which a label is predicted, where a sample may have several labels."""
        return float(self.model.config.threshold)

    def probabilities(self, images: Sequence[Image.Image], texts: Sequence[str]) -> Tensor:
        """Return class probabilities, (B, C).

        They add up to 1, except where a sample may have several labels: then each label has its own probability.

        Args:
            images: The images, B of them.
            texts: The text of each image.
        """
        logits = self.logits(images, texts)
        return logits.sigmoid() if self.has_several_labels else logits.softmax(dim=1)

    @torch.inference_mode()
    def logits(self, images: Sequence[Image.Image], texts: Sequence[str]) -> Tensor:
        """Return logits, (B, C).

        Args:
            images: The images, B of them.
            texts: The text of each image.
        """
        ids, mask = self.preprocessor.tokenize(texts)
        logits: Tensor = self.model(self.preprocessor.pixel_values(images), ids, mask).logits
        return logits


def open_exported(directory: Path) -> ExportedModel:
    """Load an exported model from its folder, which is all that is needed.

    Args:
        directory: The folder that `export` wrote.

    Raises:
        ExportError: If it holds no exported model.
    """
    _check_exported(directory)
    try:
        model_type = json.loads((directory / CONFIG).read_text()).get("model_type")
        if model_type != FusionConfig.model_type:
            raise ExportError(
                f"{directory}: model_type is {model_type!r}; expected {FusionConfig.model_type!r}, which exported "
                "models have"
            )
        model, report = FusionForClassification.from_pretrained(
            directory, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
        names: dict[Any, str] = dict(model.config.id2label or {})
        max_text_tokens = int(model.config.max_text_tokens)
    except ExportError:
        raise
    except Exception as error:  # transformers checks little of a damaged configuration, and so does the model
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        raise ExportError(f"{directory}: the model cannot be loaded: {type(error).__name__}: {reason}") from error
    if report["missing_keys"]:  # transformers has filled them with random values
        raise ExportError(
            f"{directory}: the model cannot be loaded: {len(report['missing_keys'])} of its weights are missing, "
            f"{min(report['missing_keys'])} among them; export it again"
        )
    model.train(False)
    return ExportedModel(
        model=model,
        preprocessor=Preprocessor(
            image_processor=load_image_processor(str(directory)),
            tokenizer=load_tokenizer(str(directory)),
            max_text_tokens=max_text_tokens,
        ),
        class_names=tuple(names[index] for index in range(len(names))),
    )


def exported_form(directory: Path) -> dict[str, Any]:
    """Return the format of the data that an exported model was trained on: the `data` section of its search file.

    Args:
        directory: The folder of the exported model.

    Raises:
        ExportError: If the folder's `architecture.yaml` cannot be read.
    """
    _check_exported(directory)
    path = directory / DESCRIPTION
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        form: dict[str, Any] = dict(values["data"])
        if form["reader"] not in READERS or not isinstance(form.get("columns", {}), dict):
            raise ValueError(f"data is {form}")
    except (OSError, yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise ExportError(f"{path}: the format of the training data cannot be read: {error}") from error
    return form


def _check_exported(directory: Path) -> None:
    if not (directory / CONFIG).is_file():
        raise ExportError(f"{directory}: holds no exported model; expected a file {CONFIG} in it")
