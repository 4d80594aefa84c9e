"""The public Python interface of exported models: predict, embed and evaluate pictures with texts, and data frames."""

import hashlib
import importlib
import itertools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nas.common.boundary import shown
from nas.common.devices import AUTO, device_of, precision_of
from nas.common.errors import ArgumentError, DataError
from nas.common.precision import PRECISION_CHOICES
from nas.config.data_schema import DataConfig
from nas.data.dataset import convert_all
from nas.data.given_images import as_picture
from nas.data.images import ImageSource, open_images
from nas.data.labels import with_composed_labels
from nas.data.pairs import check_negatives, pair_items
from nas.data.preprocessing import Preprocessor
from nas.data.readers.rows import as_text, parse_labels
from nas.data.samples import RawDataset, RawSample, Samples
from nas.models.classifier import FusionForClassification
from nas.run.api.given_table import FRAME, is_frame, plain_cell
from nas.run.embed_pairs import embed_images, embed_texts
from nas.run.evaluate import ALL, Evaluation, evaluate_model, evaluation_of
from nas.run.evaluation_data import described_data, evaluation_data
from nas.run.exported_model import ExportedModel, Picture, SourceImage, open_exported

PathLike = str | os.PathLike[str]


def load(
    directory: PathLike, *, device: str = AUTO, precision: str = AUTO, accept_changed: bool = False
) -> "LoadedModel":
    """Load an exported model from its folder.

    Args:
        directory: The folder.
        device: The device to compute on: `auto`, `cpu`, `cuda` or `cuda:1`.
        precision: The precision of products: `auto`, `float32` or `bfloat16`.
        accept_changed: Whether files may have been changed after the model was saved.

    Raises:
        ExportError: If it holds no exported model, or a file of it is missing, damaged, not allowed or changed.
        ExecutionError: If there is no such device.
        ArgumentError: If there is no such precision.
    """
    if precision not in PRECISION_CHOICES:
        expected = ", ".join(PRECISION_CHOICES)
        raise ArgumentError(f"precision: not allowed; expected one of {expected}, got {shown(precision)}")
    place = device_of(device)
    opened = open_exported(
        directory, device=place, precision=precision_of(precision, place), accept_changed=accept_changed
    )
    return LoadedModel(Path(directory), opened)


@dataclass(frozen=True)
class _Given:
    """Samples that a caller gives.

    Args:
        images: Their pictures.
        texts: Their texts.
        is_single: Whether there is one sample, so that the answer is one as well.
        frame: The data frame that they are from; None for none.
    """

    images: Sequence[Picture]
    texts: Sequence[str]
    is_single: bool = False
    frame: Any = None


class LoadedModel:
    """An exported model.

    Samples are given in one of three forms: one picture and its text, lists of both, or a pandas data frame with a
    column of each. Pictures are paths, pictures of PIL of any mode, arrays of uint8, (H, W), (H, W, 3) or (H, W, 4), or
    the bytes of image files. A missing text of a data frame is the empty text; a missing picture is an error. The names
    of the columns are those of the training data, unless `image_column` and `text_column` are given. With `images`, a
    folder or a ZIP file, paths are relative to it.

    Args:
        directory: The folder of the model.
        exported: The opened model.
    """

    def __init__(self, directory: Path, exported: ExportedModel) -> None:
        self.directory = directory
        self._exported = exported

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the probabilities."""
        return self._exported.class_names

    @property
    def model(self) -> FusionForClassification:
        """The model of transformers."""
        return self._exported.model

    @property
    def preprocessor(self) -> Preprocessor:
        """The image processor and tokenizer."""
        return self._exported.preprocessor

    def __repr__(self) -> str:
        what = "retrieval" if self._exported.is_retrieval else f"{len(self.class_names)} classes"
        return f"LoadedModel({str(self.directory)!r}, {what})"

    def predict(self, data: Any, texts: str | Sequence[str] | None = None, **options: Any) -> Any:
        """Return the most probable class of every sample; with several labels, the list of those predicted.

        Args:
            data: A picture, a list of pictures, or a data frame.
            texts: The text of the picture, or the list of texts; None with a data frame.
            options: `image_column`, `text_column` and `images`; see the class.

        Returns:
            For one sample its class, for lists a list, for a data frame a series with its index.

        Raises:
            DataError: If a picture or text cannot be used.
        """
        self._exported.check_classifier()
        given = self._given(data, texts, **options)
        logits = self._exported.logits(given.images, given.texts)
        if self._exported.has_several_labels:
            chosen = (logits.sigmoid() > self._exported.threshold).tolist()
            found: list[Any] = [list(itertools.compress(self.class_names, row)) for row in chosen]
        else:
            found = [self.class_names[index] for index in logits.argmax(dim=1).tolist()]
        if given.frame is not None:
            return importlib.import_module("pandas").Series(
                found, index=given.frame.index, name="prediction", dtype=object
            )
        return found[0] if given.is_single else found

    def predict_proba(self, data: Any, texts: str | Sequence[str] | None = None, **options: Any) -> Any:
        """Return the probability of every class for every sample; for the arguments see `predict`.

        Returns:
            For one sample an array (C,), for lists an array (N, C), float32; for a data frame one with its index and a
            column for each class.
        """
        given = self._given(data, texts, **options)
        found = self._exported.probabilities(given.images, given.texts).numpy()
        if given.frame is not None:
            return importlib.import_module("pandas").DataFrame(
                found, index=given.frame.index, columns=list(self.class_names)
            )
        return found[0] if given.is_single else found

    def embed(self, data: Any, texts: str | Sequence[str] | None = None, **options: Any) -> NDArray[np.float32]:
        """Return what the classifiers of the model read of every sample; for the arguments see `predict`.

        It is the readout of the last layer of each encoder after fusion, one behind the other: for PMF the image's,
        then the text's; for an ensemble those of each member. For retrieval it is the embedding of the picture and
        behind it that of the text; see `embed_images` and `embed_texts` for either alone.

        Returns:
            For one sample an array (D,), otherwise (N, D), float32.
        """
        given = self._given(data, texts, **options)
        found: NDArray[np.float32] = self._exported.embeddings(given.images, given.texts).numpy()
        return found[0] if given.is_single else found

    def embed_images(self, images: Sequence[Picture]) -> NDArray[np.float32]:
        """Return the embeddings of a list of pictures for retrieval, of unit length, float32, (N, E).

        Their dot products with those of texts are the similarities that a search has optimized the order of.

        Raises:
            DataError: If a picture cannot be used.
            ExportError: If the model is a classifier.
        """
        return np.asarray(embed_images(self._exported, images), dtype=np.float32)

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the embeddings of a list of texts for retrieval, of unit length, float32, (N, E).

        Raises:
            DataError: If a text cannot be used.
            ExportError: If the model is a classifier.
        """
        return np.asarray(embed_texts(self._exported, texts), dtype=np.float32)

    def evaluate(
        self,
        data: Any,
        *,
        split: str = "test",
        reader: str | None = None,
        images: PathLike | None = None,
        **columns: str,
    ) -> Evaluation:
        """Evaluate the model, as the command `evaluate` does.

        Args:
            data: The manifest or folder of a data set, or a data frame, all rows of which are evaluated.
            split: The split of the data set, or `all`; all samples of one without splits are evaluated.
            reader: The reader of the data set; None for that of the training data.
            images: The folder or ZIP file of the images.
            columns: `image_column`, `text_column`, `label_column` and `split_column`, where they are not those of the
                training data.

        Raises:
            DataError: If the data cannot be used, or have labels that are unknown to the model.
        """
        named = {name.removesuffix("_column"): value for name, value in columns.items()}
        if is_frame(data):
            return self._evaluate_frame(data, images, named)
        place = None if images is None else Path(images)
        config, is_whole = evaluation_data(self.directory, Path(data), reader=reader, images=place, columns=named)
        return evaluate_model(self._exported, config, ALL if is_whole else split)

    def _evaluate_frame(self, frame: Any, images: PathLike | None, columns: dict[str, str]) -> Evaluation:
        inputs = {f"{name}_column": value for name, value in columns.items() if name in ("image", "text")}
        given = self._given(frame, None, images=images, **inputs)
        if self._exported.is_retrieval:
            return self._evaluate_pairs(given)
        several = self._exported.has_several_labels
        config = self._form(columns).replace(labels="several" if several else "one")
        rows = []
        assert config.columns.label is not None, "a classifier has labels"
        for number, cell in enumerate(_column(frame, config.columns.label)):
            labels = parse_labels(_plain(cell), config, f"{FRAME}, row {number}")
            if not several and not labels:
                raise DataError(
                    f"{FRAME}, row {number}: {config.columns.label} is empty; expected a label in every row"
                )
            rows.append(RawSample(str(number), given.texts[number], labels, f"row {number}"))
        raw = with_composed_labels(RawDataset(FRAME, {"test": rows}, has_several_labels=several))
        samples = convert_all(raw, self.class_names)
        logits = self._exported.logits(given.images, given.texts)
        return evaluation_of(self._exported, logits, samples, list(raw.notes))

    def _evaluate_pairs(self, given: _Given) -> Evaluation:
        """Evaluate a model for retrieval; pictures with the same content are one."""
        contents = []
        for number, entry in enumerate(given.images):
            picture = self._exported.open_picture(entry, f"{FRAME}, row {number}")
            contents.append(hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).hexdigest())
        items = pair_items(contents, given.texts, {})
        check_negatives(items, FRAME)
        places = tuple(f"row {number}" for number in range(len(items)))
        samples = Samples(images=tuple(contents), texts=tuple(given.texts), labels=items, places=places)
        return evaluation_of(self._exported, self._exported.logits(given.images, given.texts), samples, [])

    def _form(self, columns: dict[str, str]) -> DataConfig:
        """Return the form of a table with the columns of the training data, or others."""
        return described_data(self.directory, Path("."), reader="manifest", images=None, columns=columns)

    def _given(
        self,
        data: Any,
        texts: str | Sequence[str] | None,
        *,
        images: PathLike | None = None,
        image_column: str | None = None,
        text_column: str | None = None,
    ) -> _Given:
        """Return the samples that a caller gives in any of the three forms."""
        source = None if images is None else open_images(Path(images), self._exported.max_pixels)
        if is_frame(data):
            if texts is not None:
                raise DataError("texts: not allowed with a data frame; expected its column of texts (text_column)")
            named = {name: value for name, value in (("image", image_column), ("text", text_column)) if value}
            columns = self._form(named).columns
            words = [
                as_text(_plain(cell), f"{FRAME}, row {number}: {columns.text}")
                for number, cell in enumerate(_column(data, columns.text))
            ]
            cells = enumerate(_column(data, columns.image))
            pictures = [as_picture(cell, f"{FRAME}, row {number}: {columns.image}") for number, cell in cells]
            return _Given(_placed(pictures, source), words, frame=data)
        is_single = isinstance(data, str | os.PathLike | Image.Image | bytes | np.ndarray) and not _is_list(data)
        if texts is None or is_single != isinstance(texts, str):
            raise DataError(
                "texts: do not fit the pictures; expected one picture and one text, two lists, or a data frame alone, "
                f"got {shown(texts)}"
            )
        pictures, words = ([data], [str(texts)]) if is_single else (list(data), list(texts))
        return _Given(_placed(pictures, source), words, is_single=is_single)


def _placed(pictures: Iterable[Any], source: ImageSource | None) -> list[Picture]:
    """Return pictures, with those that have a path taken from an image source if there is one."""
    if source is None:
        return list(pictures)
    return [
        SourceImage(source, os.fspath(entry)) if isinstance(entry, str | os.PathLike) else entry for entry in pictures
    ]


def _plain(cell: Any) -> Any:
    """Return a cell as a plain value, or as it is where that is not possible, so that reading it names the row."""
    try:
        return plain_cell(cell)
    except TypeError:
        return cell


def _is_list(data: Any) -> bool:
    """Return whether an array holds paths or a batch of pictures."""
    return isinstance(data, np.ndarray) and (data.dtype != np.uint8 or data.ndim not in (2, 3))


def _column(frame: Any, name: str) -> Iterable[Any]:
    """Return the cells of a column.

    Raises:
        DataError: If there is none of this name.
    """
    names = list(map(str, frame.columns))
    if names.count(name) != 1:
        raise DataError(
            f"{FRAME}: column {name!r} is missing or ambiguous; expected it once, got {shown(', '.join(names), 200)}; "
            "give its name with image_column, text_column or label_column"
        )
    cells: Iterable[Any] = frame.iloc[:, names.index(name)]
    return cells
