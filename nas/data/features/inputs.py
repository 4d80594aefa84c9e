"""What the encoders read to build features: images and texts in the order in which they are stored, step by step."""

import os
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nas.common.errors import DataError
from nas.data.augmentation import augmented
from nas.data.images import ImageSource
from nas.data.preprocessing import Preprocessor
from nas.data.samples import Dataset, Samples
from nas.models.encoders.base import Encoder
from nas.search.space import EntryLayers

BATCH_SIZE = 32
_TOKENISED_TOGETHER = 1024
_PREPARED_AHEAD = 3


@dataclass(frozen=True)
class Sources:
    """What features are computed from.

    Args:
        dataset: Its splits are stored.
        images: Where the images lie.
        preprocessor: Turns images and texts into tensors.
        image_encoder: Frozen.
        text_encoder: Frozen.
        reads: Where models start to compute, ascending.
        has_attention: Whether they make use of data attention.
    """

    dataset: Dataset
    images: ImageSource
    preprocessor: Preprocessor
    image_encoder: Encoder
    text_encoder: Encoder
    reads: tuple[EntryLayers, ...]
    has_attention: bool


@dataclass(frozen=True)
class Step:
    """Images, or texts in the order of their lengths, that are computed together.

    Args:
        split: Of the samples.
        modality: "image" or "text".
        start: The first image or text.
        stop: Behind the last.
        first_row: Where its rows start in the files.
        count: Views of images, or texts.
    """

    split: str
    modality: str
    start: int
    stop: int
    first_row: int
    count: int


class SplitInputs:
    """One split's images and texts, in the order in which they are stored.

    Images stand in the order of their first sample, each once, however many samples it serves, with its views side by
    side. Texts stand by length: those computed together, and those that evaluation reads together, lie together and
    need little padding.

    Args:
        name: Of the split.
        samples: Its samples.
        preprocessor: Its tokenizer is used, once for every text.
        views: Of every image.
    """

    def __init__(self, name: str, samples: Samples, preprocessor: Preprocessor, views: int) -> None:
        self.name, self.samples, self.views = name, samples, views
        self.images = list(dict.fromkeys(samples.images))
        ids: list[NDArray[np.int32]] = []
        for start in range(0, len(samples), _TOKENISED_TOGETHER):
            ids += preprocessor.token_ids(samples.texts[start : start + _TOKENISED_TOGETHER])
        self.text_lengths = np.array([len(text) for text in ids], dtype=np.int64)
        self.order = np.argsort(self.text_lengths, kind="stable")
        self._ids = np.concatenate([ids[sample] for sample in self.order])
        self._stops = np.cumsum(self.text_lengths[self.order])
        self._starts = self._stops - self.text_lengths[self.order]

    def small_arrays(self) -> dict[str, NDArray[np.int64] | NDArray[np.float32]]:
        """Labels, and where each sample's image and text are."""
        position = {name: index for index, name in enumerate(self.images)}
        starts = np.empty_like(self._starts)
        starts[self.order] = self._starts
        return {
            "labels": self.samples.labels,
            "image_index": np.array([position[name] for name in self.samples.images], dtype=np.int64),
            "text_starts": starts,
            "text_lengths": self.text_lengths,
        }

    def token_ids(self, step: Step) -> list[NDArray[np.int32]]:
        """Of every text of a step."""
        return [self._ids[self._starts[index] : self._stops[index]] for index in range(step.start, step.stop)]

    def steps(self) -> list[Step]:
        """All its work."""
        steps = []
        together = max(BATCH_SIZE // self.views, 1)  # all views of an image, which is decoded once for them
        for start in range(0, len(self.images), together):
            stop = min(start + together, len(self.images))
            steps.append(Step(self.name, "image", start, stop, start * self.views, (stop - start) * self.views))
        for start in range(0, len(self.samples), BATCH_SIZE):
            stop = min(start + BATCH_SIZE, len(self.samples))
            steps.append(Step(self.name, "text", start, stop, int(self._starts[start]), stop - start))
        return steps


def prepared(
    steps: Sequence[Step], splits: Mapping[str, SplitInputs], sources: Sources
) -> Generator[tuple[Step, Tensor, Tensor | None]]:
    """Pixels and None, or token ids and mask, of every step; made in the background while the encoders compute.

    Raises:
        DataError: If an image cannot be read.
    """
    waiting: deque[tuple[Step, Future[tuple[Tensor, Tensor | None]]]] = deque()
    pool = ThreadPoolExecutor(max(min((os.cpu_count() or 1) // 2, _PREPARED_AHEAD), 1))
    try:
        for step in steps:
            waiting.append((step, pool.submit(_model_inputs, step, splits[step.split], sources)))
            if len(waiting) > _PREPARED_AHEAD:
                first, result = waiting.popleft()
                yield first, *result.result()
        for first, result in waiting:
            yield first, *result.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _model_inputs(step: Step, split: SplitInputs, sources: Sources) -> tuple[Tensor, Tensor | None]:
    if step.modality == "text":
        ids, mask = sources.preprocessor.padded(split.token_ids(step))
        return ids, None if bool(mask.all()) else mask
    return pixel_values(split.images[step.start : step.stop], split.views, sources), None


def pixel_values(names: Sequence[str], views: int, sources: Sources) -> Tensor:
    """Pixels of all views of some images, (B, 3, height, width).

    Raises:
        DataError: If an image cannot be read, or they do not come out in one size.
    """
    pictures = []
    for name in names:
        image = sources.images.open(name)
        pictures += [augmented(image, name, view) for view in range(views)]
    try:
        return sources.preprocessor.pixel_values(pictures)
    except ValueError as error:
        raise DataError(
            f"{sources.images.location}: images {names[0]!r} to {names[-1]!r} cannot be processed together: {error}"
        ) from error
