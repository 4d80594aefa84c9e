"""Inputs of the encoders during a feature build: images and texts in storage order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.common.boundary import shown
from nas.common.devices import CPU
from nas.common.errors import DataError
from nas.data.augmentation import augment
from nas.data.contents import Contents
from nas.data.images import ImageSource
from nas.data.preprocessing import Preprocessor
from nas.data.samples import Dataset, Samples
from nas.models.encoders.base import Encoder
from nas.search.space import EntryLayers

BATCH_SIZE = 32
BLOCK_SIZE = 64
"""The number of images and views, or of texts, that are computed and recorded together."""
_TOKENIZER_BATCH = 1024


@dataclass(frozen=True)
class FeatureSources:
    """The data and the encoders that features are computed from.

    Args:
        dataset: The data set; all its splits are stored.
        images: The image source of the data set.
        preprocessor: Converts images and texts into the inputs of the encoders.
        image_encoder: The frozen image encoder, float32.
        text_encoder: The frozen text encoder, float32.
        entry_layers: Every pair of layers at which a model may start to compute.
        uses_attention: Whether the models use stored data attention, if the configuration allows storing it.
        contents: The content of all of them, which identifies the features.
        device: The device to compute on. It affects the features by rounding only, and so is no part of what identifies
            them.
        allows_float16: Whether a device that is fast at float16 computes in it what is read as float16.
        test_count: The number of test samples, which are not part of the data set here.
    """

    dataset: Dataset
    images: ImageSource
    preprocessor: Preprocessor
    image_encoder: Encoder
    text_encoder: Encoder
    entry_layers: frozenset[EntryLayers]
    uses_attention: bool
    contents: Contents
    device: torch.device = CPU
    allows_float16: bool = True
    test_count: int = 0


@dataclass(frozen=True)
class InputRange:
    """Neighbouring images, or texts in the order of their lengths: a batch, or the batches of a block.

    Args:
        split: Name of the split.
        modality: "image" or "text".
        start: Index of the first image or text.
        stop: Index after the last image or text.
        first_row: Row in the arrays at which the results begin.
        count: Number of views of images, or of texts.
    """

    split: str
    modality: str
    start: int
    stop: int
    first_row: int
    count: int


class SplitInputs:
    """Images and texts of one split in storage order.

    Images are stored in the order of their first sample, each once even if several samples share it, with its views
    next to each other. Texts are sorted by length, so that a batch of the build, or of an evaluation, is contiguous
    and needs little padding.

    Args:
        name: Name of the split.
        samples: Samples of the split.
        preprocessor: Provides the tokenizer, which is applied once to every text.
        views: Number of views of every image.
    """

    def __init__(self, name: str, samples: Samples, preprocessor: Preprocessor, views: int) -> None:
        self.name, self.samples, self.views = name, samples, views
        self.images = list(dict.fromkeys(samples.images))
        ids: list[NDArray[np.int32]] = []
        for start in range(0, len(samples), _TOKENIZER_BATCH):
            ids += preprocessor.token_ids(samples.texts[start : start + _TOKENIZER_BATCH])
        self.text_lengths = np.array([len(text) for text in ids], dtype=np.int64)
        self.order = np.argsort(self.text_lengths, kind="stable")
        self._ids = np.concatenate([ids[sample] for sample in self.order])
        numbers: dict[bytes, int] = {}
        self._text_index = np.array([numbers.setdefault(text.tobytes(), len(numbers)) for text in ids], dtype=np.int64)
        self._stops = np.cumsum(self.text_lengths[self.order])
        self._starts = self._stops - self.text_lengths[self.order]

    def small_arrays(self) -> dict[str, NDArray[np.int64] | NDArray[np.float32]]:
        """Return the labels, the positions of the image and the text of each sample, and which texts are equal."""
        position = {name: index for index, name in enumerate(self.images)}
        starts = np.empty_like(self._starts)
        starts[self.order] = self._starts
        return {
            "labels": self.samples.labels,
            "image_index": np.array([position[name] for name in self.samples.images], dtype=np.int64),
            "text_starts": starts,
            "text_lengths": self.text_lengths,
            "text_index": self._text_index,
        }

    def token_ids(self, texts: InputRange) -> list[NDArray[np.int32]]:
        """Return the token ids of every text of a range."""
        return [self._ids[self._starts[index] : self._stops[index]] for index in range(texts.start, texts.stop)]

    def blocks(self) -> list[InputRange]:
        """Return the blocks of all images and texts of the split."""
        return [
            *self._ranges("image", 0, len(self.images), BLOCK_SIZE),
            *self._ranges("text", 0, len(self.samples), BLOCK_SIZE),
        ]

    def batches(self, block: InputRange) -> list[InputRange]:
        """Return the batches of a block."""
        return list(self._ranges(block.modality, block.start, block.stop, BATCH_SIZE))

    def _ranges(self, modality: str, start: int, stop: int, size: int) -> Iterator[InputRange]:
        # All views of an image are in one batch, so that it is decoded once.
        views = self.views if modality == "image" else 1
        step = max(size // views, 1)
        for first in range(start, stop, step):
            end = min(first + step, stop)
            row = first * views if modality == "image" else int(self._starts[first])
            yield InputRange(self.name, modality, first, end, row, (end - first) * views)


def pixel_values(names: Sequence[str], views: int, sources: FeatureSources) -> Tensor:
    """Return the pixel values of all views of some images, (B, 3, height, width).

    Args:
        names: Paths of the images.
        views: Number of views of every image.
        sources: Provides the image source and the preprocessor.

    Raises:
        DataError: If an image cannot be read, or the processed images differ in size.
    """
    images = []
    for name in names:
        image = sources.images.open(name)
        images += [augment(image, name, view) for view in range(views)]
    try:
        return sources.preprocessor.pixel_values(images)
    except ValueError as error:
        raise DataError(
            f"{sources.images.location}: images {shown(names[0])} to {shown(names[-1])} cannot be batched ({error}); "
            "expected an image processor that resizes all images to one size"
        ) from error
