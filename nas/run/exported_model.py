"""Open exported models and predict with them."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from nas.common.boundary import SMALL_FILE, reading, shown
from nas.common.devices import CPU, computing_in
from nas.common.errors import DataError, ExportError
from nas.common.precision import Precision
from nas.common.yaml_files import read_yaml
from nas.config.data_schema import MAX_PIXELS
from nas.config.load import parse_data
from nas.config.reader_registry import READERS
from nas.data.given_images import open_picture
from nas.data.images import ImageSource
from nas.data.inputs import Input
from nas.data.preprocessing import Preprocessor
from nas.data.text_check import check_given_texts
from nas.models.classifier import MULTI_LABEL, RETRIEVAL, FusionForClassification
from nas.models.encoders.config_check import check_weights
from nas.models.encoders.folder_check import SAFE_INDEX, SAFE_WEIGHTS
from nas.models.encoders.pretrained import PROCESSOR_FILES, load_image_processor, load_tokenizer, place_in
from nas.models.fusion.dual_encoder import CosineClassifier
from nas.models.model_seals import DESCRIPTION, MODEL_CARD, folder_digest, is_sealed, model_changes
from nas.run.checks import check_inputs
from nas.run.exported_checks import check_exported, exported_class, find_config
from nas.run.prediction.batches import BATCH_SIZE, Compute, OpenImage, Outcome, checked_outcomes, predict_inputs


class SourceImage(NamedTuple):
    """A picture of an image source, such as a ZIP file."""

    source: ImageSource
    name: str


Picture = Image.Image | NDArray[np.uint8] | bytes | Mapping[str, Any] | str | os.PathLike[str] | SourceImage
"""A picture in any form that `as_picture` takes, or the place of one."""


@dataclass(frozen=True)
class Prediction:
    """The probability of one class.

    Args:
        class_name: The name of the class.
        probability: Its probability.
        is_predicted: Whether the label is predicted, where a sample may have several; else False.
    """

    class_name: str
    probability: float
    is_predicted: bool


@dataclass(frozen=True)
class ExportedModel:
    """An exported model, loaded from its folder.

    Args:
        model: The classifier, in evaluation mode and float32.
        preprocessor: The image processor and tokenizer of the folder.
        class_names: The class names in the order of the logits.
        max_pixels: The number of pixels that a picture may have.
        digest: The digest of the files of the folder.
        precision: The precision of products.
    """

    model: FusionForClassification
    preprocessor: Preprocessor
    class_names: tuple[str, ...]
    max_pixels: int = MAX_PIXELS
    digest: str = ""
    precision: Precision = "float32"

    @property
    def has_several_labels(self) -> bool:
        """Whether a sample may have several labels."""
        return str(self.model.config.problem_type) == MULTI_LABEL

    @property
    def is_retrieval(self) -> bool:
        """Whether the model embeds pictures and texts for retrieval, and classifies nothing."""
        return str(self.model.config.task) == RETRIEVAL

    @property
    def threshold(self) -> float:
        """The probability above which a label is predicted, where a sample may have several labels."""
        return float(self.model.config.threshold)

    def predict(self, images: Sequence[Picture], texts: Sequence[str]) -> list[list[Prediction]]:
        """Classify pictures with their texts; this is all that a user needs.

        Args:
            images: Pictures of any mode (RGB, RGBA, palette, grey, 16 bits), or paths of image files.
            texts: The text of each picture.

        Returns:
            For each picture, the predictions of all classes, the most probable first.

        Raises:
            DataError: If a picture cannot be read or used, or the numbers of pictures and texts differ.
        """
        return [self._ranked(row) for row in self.probabilities(images, texts)]

    def _ranked(self, probabilities: Tensor) -> list[Prediction]:
        values, indices = probabilities.sort(descending=True)
        several, threshold = self.has_several_labels, self.threshold
        return [
            Prediction(self.class_names[index], value, several and value > threshold)
            for value, index in zip(values.tolist(), indices.tolist(), strict=True)
        ]

    def probabilities(self, images: Sequence[Picture], texts: Sequence[str]) -> Tensor:
        """Return class probabilities, (B, C); see `predict`.

        They add up to 1, except where a sample may have several labels: then each label has its own probability.
        """
        self.check_classifier()
        logits = self.logits(images, texts)
        return logits.sigmoid() if self.has_several_labels else logits.softmax(dim=1)

    def logits(self, images: Sequence[Picture], texts: Sequence[str]) -> Tensor:
        """Return logits, (B, C), or for retrieval the embeddings of the pairs, (B, 2E); see `predict`."""
        return self._outputs(images, texts, self._forward)

    def check_classifier(self) -> None:
        """Check that the model has classes.

        Raises:
            ExportError: If it is one for retrieval.
        """
        if self.is_retrieval:
            raise ExportError(
                "predict: the model is one for retrieval, without classes; expected a classifier; use embed_images and "
                "embed_texts of nas.load, or the commands predict and evaluate"
            )

    def embeddings(self, images: Sequence[Picture], texts: Sequence[str]) -> Tensor:
        """Return the inputs of all classifiers of the model, one behind the other, (B, D); see `predict`."""
        return self._outputs(images, texts, self._embed)

    def _outputs(self, images: Sequence[Picture], texts: Sequence[str], compute: Compute) -> Tensor:
        for name, values in (("images", images), ("texts", texts)):
            if isinstance(values, str | bytes | os.PathLike | Image.Image) or len(values) == 0:
                raise DataError(f"{name}: not a list; expected a list with one entry or more, got {shown(values)}")
        if len(images) != len(texts):
            raise DataError(f"texts: wrong number; expected {len(images)}, one for each image, got {len(texts)}")
        check_given_texts(texts, self.preprocessor)
        pictures = {f"images[{index}]": image for index, image in enumerate(images)}
        inputs = [Input(index, name, text) for index, (name, text) in enumerate(zip(pictures, texts, strict=True))]
        outcomes = predict_inputs(
            inputs,
            preprocessor=self.preprocessor,
            open_image=lambda name: self.open_picture(pictures[name], name),
            compute=compute,
        )
        return torch.stack([outcome.values for outcome in checked_outcomes(outcomes) if outcome.values is not None])

    def outcomes(
        self, inputs: Iterable[Input], open_image: OpenImage, batch_size: int = BATCH_SIZE
    ) -> Iterator[Outcome]:
        """Yield the logits of every input, or its error, in order; see `predict_inputs`.

        Args:
            inputs: The inputs, of any number.
            open_image: Opens the image of an input; it is called in several threads.
            batch_size: The number of inputs that are computed at once.
        """
        return predict_inputs(
            inputs,
            preprocessor=self.preprocessor,
            open_image=open_image,
            compute=self._forward,
            batch_size=batch_size,
        )

    @torch.inference_mode()
    def _forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        device = self.model.device
        # Given here, because the configuration may ask for other outputs.
        options = {"return_dict": True, "output_hidden_states": False, "output_attentions": False}
        with computing_in(self.precision, device):
            found = self.model(pixels.to(device), ids.to(device), mask.to(device), **options)
        if self.is_retrieval:
            return torch.cat([found.image_embeds, found.text_embeds], dim=1).float().cpu()
        logits: Tensor = found.logits
        return logits.cpu()

    def _embed(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        if self.is_retrieval:
            return self._forward(pixels, ids, mask)
        read: list[Tensor] = []
        hooks = [
            module.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].float().cpu()))
            for member in self.model.members
            for name, module in member.named_modules()
            if isinstance(module, nn.Linear | CosineClassifier) and "classifier" in name
        ]
        try:
            self._forward(pixels, ids, mask)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat(read, dim=1)

    def open_picture(self, image: Picture, name: str) -> Image.Image:
        """Return a picture as the images of a data set are read."""
        if isinstance(image, SourceImage):
            return image.source.open(image.name)
        return open_picture(image, name, self.max_pixels)


def open_exported(
    directory: str | os.PathLike[str],
    *,
    device: torch.device = CPU,
    precision: Precision = "float32",
    accept_changed: bool = False,
    on_note: Callable[[str], None] | None = None,
) -> ExportedModel:
    """Load an exported model from its folder, which is all that is needed.

    Args:
        directory: The folder that `export` or `save_pretrained` wrote.
        device: The device to compute on.
        precision: The precision of products; logits and probabilities are float32 in any case.
        accept_changed: Whether files may have been changed after the model was saved.
        on_note: The receiver of notes about the folder; by default they are warnings of Python.

    Raises:
        ExportError: If it holds no exported model, or a file of it is missing, damaged, not allowed or changed.
    """
    folder = Path(directory)
    image, text = check_exported(folder)
    _check_seals(folder, accept_changed, on_note or (lambda note: warnings.warn(note, stacklevel=3)))
    where = _weights_place(folder)
    with reading(where, expected="the weights of an exported model", error=ExportError):
        model, report = exported_class(folder).from_pretrained(
            folder,
            checks_files=False,
            local_files_only=True,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    _check_report(report, where)
    check_weights(model, where, ExportError)
    model.train(False).to(device)
    preprocessor = Preprocessor(
        image_processor=load_image_processor(str(folder), ExportError),
        tokenizer=load_tokenizer(str(folder), ExportError),
        max_text_tokens=int(model.config.max_text_tokens),
        image_source=place_in(str(folder), *PROCESSOR_FILES),
    )
    check_inputs(image, text, preprocessor, (str(folder), str(folder)), ExportError)
    names: dict[int, str] = model.config.id2label
    class_names = tuple(names[index] for index in range(len(names)))
    digest = folder_digest(folder, is_checked=not accept_changed)
    return ExportedModel(model, preprocessor, class_names, _max_pixels(folder), digest, precision)


def _max_pixels(folder: Path) -> int:
    """Return the number of pixels that pictures of the data set might have; a model saved elsewhere has none."""
    path = folder / DESCRIPTION
    if not path.exists():
        return MAX_PIXELS
    expected = "the description of an exported model"
    described = read_yaml(path, expected=expected, error=ExportError, max_bytes=SMALL_FILE)
    with reading(path, expected=expected, error=ExportError, problem="is damaged"):
        is_described = "data" in dict(described)
    return int(exported_form(folder).get("max_pixels", MAX_PIXELS)) if is_described else MAX_PIXELS


def _check_seals(folder: Path, accept_changed: bool, on_note: Callable[[str], None]) -> None:
    """Check that no file was changed after the model was saved; the model card, which nothing reads, may be."""
    if not is_sealed(folder):
        on_note(f"{folder}: has no checksums, so changed files cannot be noticed; save_pretrained writes them")
        return
    changes = model_changes(folder)
    if not changes:
        return
    if accept_changed or set(changes.names) == {MODEL_CARD}:
        on_note(f"{folder}: changed after the model was saved: {changes}")
        return
    raise ExportError(
        f"{folder}: changed after the model was saved: {changes}; expected the files as they were saved; restore them, "
        "export the model again, or use them as they are with --accept-changed (in Python: accept_changed=True)"
    )


def _weights_place(folder: Path) -> str:
    return place_in(str(folder), SAFE_WEIGHTS, SAFE_INDEX)


def _check_report(report: Mapping[str, Any], where: str) -> None:
    """Check that the files held exactly the weights of the model."""
    problems = (("missing_keys", "are missing"), ("unexpected_keys", "belong to another model"))
    for key, problem in problems:  # transformers fills missing ones with random values
        if report[key]:
            raise ExportError(
                f"{where}: {len(report[key])} weights {problem}, {min(report[key])} among them; expected exactly those "
                "that config.json describes; export the model again"
            )
    if report["mismatched_keys"]:
        name, *sizes = min(report["mismatched_keys"], key=str)
        got, expected = ([*size] for size in sizes)
        raise ExportError(f"{where}: {name}: wrong size; expected {expected}, as config.json says, got {got}")


def exported_form(directory: Path) -> dict[str, Any]:
    """Return the format of the data that an exported model was trained on: the `data` section of its search file.

    A model that was fine-tuned and saved elsewhere has no description; a manifest is expected then.

    Args:
        directory: The folder of the exported model.

    Raises:
        NasError: If the folder's `architecture.yaml` cannot be read, or describes no data.
    """
    find_config(directory)
    path, expected = directory / DESCRIPTION, "the description of an exported model, with the form of its data"
    if not path.exists():
        return {"reader": "manifest", "labels": "one", "task": exported_class(directory).task}
    described = read_yaml(path, expected=expected, error=ExportError, max_bytes=SMALL_FILE)
    with reading(path, expected=expected, error=ExportError, problem="the form of the training data cannot be read"):
        form: dict[str, Any] = dict(described["data"])
        entry = READERS[form["reader"]]
    parse_data(
        {**form, "manifest" if entry.uses_manifest else "folder": "."}, source=str(path), base_directory=Path.cwd()
    )
    return form
