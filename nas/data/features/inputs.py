"""Inputs of the encoders during a feature build: images and texts in storage order, prepared in the background."""

import os
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
_TOKENIZER_BATCH = 1024
_PREFETCHED_STEPS = 3


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


@dataclass(frozen=True)
class BuildStep:
    """Images, or texts in the order of their lengths, that are encoded as one batch.

    Args:
        split: Name of the split.
        modality: "image" or "text".
        start: Index of the first image or text.
        stop: Index after the last image or text.
        first_row: Row in the arrays at which the results of the step begin.
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
        self._stops = np.cumsum(self.text_lengths[self.order])
        self._starts = self._stops - self.text_lengths[self.order]

    def small_arrays(self) -> dict[str, NDArray[np.int64] | NDArray[np.float32]]:
        """Return the labels, and the positions of the image and the text of each sample, by array name."""
        position = {name: index for index, name in enumerate(self.images)}
        starts = np.empty_like(self._starts)
        starts[self.order] = self._starts
        return {
            "labels": self.samples.labels,
            "image_index": np.array([position[name] for name in self.samples.images], dtype=np.int64),
            "text_starts": starts,
            "text_lengths": self.text_lengths,
        }

    def token_ids(self, step: BuildStep) -> list[NDArray[np.int32]]:
        """Return the token ids of every text of a step."""
        return [self._ids[self._starts[index] : self._stops[index]] for index in range(step.start, step.stop)]

    def steps(self) -> list[BuildStep]:
        """Return the steps that encode all images and texts of the split."""
        steps = []
        image_count = max(BATCH_SIZE // self.views, 1)  # all views of an image in one step, so that it is decoded once
        for start in range(0, len(self.images), image_count):
            stop = min(start + image_count, len(self.images))
            steps.append(BuildStep(self.name, "image", start, stop, start * self.views, (stop - start) * self.views))
        for start in range(0, len(self.samples), BATCH_SIZE):
            stop = min(start + BATCH_SIZE, len(self.samples))
            steps.append(BuildStep(self.name, "text", start, stop, int(self._starts[start]), stop - start))
        return steps


def prepare_inputs(
    steps: Sequence[BuildStep], splits: Mapping[str, SplitInputs], sources: FeatureSources
) -> Generator[tuple[BuildStep, Tensor, Tensor | None]]:
    """Yield every step with its inputs, which are prepared in the background while the encoders compute.

    Args:
        steps: The steps in order.
        splits: Inputs of every split, by name.
        sources: The data to prepare.

    Yields:
        The step; pixel values (B, 3, height, width) or token ids (B, T); and the mask of the tokens (B, T), or None for
        images and for texts without padding.

    Raises:
        DataError: If an image cannot be read.
    """
    pending: deque[tuple[BuildStep, Future[tuple[Tensor, Tensor | None]]]] = deque()
    pool = ThreadPoolExecutor(max(min((os.cpu_count() or 1) // 2, _PREFETCHED_STEPS), 1))
    try:
        for step in steps:
            pending.append((step, pool.submit(_step_inputs, step, splits[step.split], sources)))
            if len(pending) > _PREFETCHED_STEPS:
                first, result = pending.popleft()
                yield first, *result.result()
        for first, result in pending:
            yield first, *result.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _step_inputs(step: BuildStep, split: SplitInputs, sources: FeatureSources) -> tuple[Tensor, Tensor | None]:
    if step.modality == "text":
        ids, mask = sources.preprocessor.pad(split.token_ids(step))
        return ids, None if bool(mask.all()) else mask
    return pixel_values(split.images[step.start : step.stop], split.views, sources), None


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
