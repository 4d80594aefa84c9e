"""Read and process images when a batch needs them, where nothing of them is stored."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.config.data_schema import DataConfig
from nas.data.augmentation import augment
from nas.data.dataset import open_dataset_images
from nas.data.decoding import picture_bytes
from nas.data.features.plan import IMAGE_NAMES, IMAGE_PIXELS
from nas.data.images import ImageSource
from nas.data.preprocessing import Preprocessor
from nas.models.encoders.checkpoints import resolve_checkpoint
from nas.models.encoders.pretrained import load_image_processor

AT_ONCE_BYTES = 32 * 2**20
"""The memory in which a worker on the CPU decodes several pictures at the same time; a larger one is alone."""
_SEPARATOR = b"\0"
"""Separates the paths of images: no path contains it."""


def decoding_bytes(largest_pixels: int) -> int:
    """Return the memory of the pictures that a worker on the CPU decodes at the same time, at most.

    Args:
        largest_pixels: The number of pixels of the largest picture.
    """
    return max(picture_bytes(largest_pixels), AT_ONCE_BYTES)


class RawImages:
    """The images of a data set, decoded and processed on demand.

    Every image is processed when it is decoded, so that a batch of photographs is never in memory as a whole.

    Args:
        source: The images.
        preprocessor: Provides the image processor.
        threads: The number of threads that decode and process the images of a batch.
        memory_bytes: The memory of the pictures that are decoded at the same time, unless a single one needs more; None
            for no limit.
    """

    def __init__(
        self, source: ImageSource, preprocessor: Preprocessor, threads: int = 1, memory_bytes: int | None = None
    ) -> None:
        self._source = source
        self._preprocessor = preprocessor
        self._threads = threads
        self._memory_bytes = memory_bytes

    def pixel_values(self, names: Sequence[str], views: Sequence[int], largest_pixels: int = 0) -> Tensor:
        """Return the pixel values of one view of each image, (B, 3, height, width), float32.

        Args:
            names: The path of each image.
            views: The index of its view; 0 is the image itself.
            largest_pixels: The number of pixels of the largest image.

        Raises:
            DataError: If an image cannot be read.
        """
        count = min(self.thread_count(largest_pixels), len(names))
        if count <= 1:
            return torch.stack(list(map(self._pixels, names, views)))
        with ThreadPoolExecutor(count, thread_name_prefix="decoding") as pool:
            return torch.stack(list(pool.map(self._pixels, names, views)))

    def thread_count(self, largest_pixels: int) -> int:
        """Return the number of threads that decode images of at most this number of pixels."""
        if self._memory_bytes is None:
            return self._threads
        return max(min(self._threads, self._memory_bytes // picture_bytes(largest_pixels)), 1)

    def _pixels(self, name: str, view: int) -> Tensor:
        """Return the pixel values of one image, (3, height, width)."""
        return self._preprocessor.pixel_values([augment(self._source.open(name), name, view)])[0]


def open_raw_images(data: DataConfig, image_encoder: str, threads: int, memory_bytes: int | None = None) -> RawImages:
    """Open the images of a data set for an encoder.

    Args:
        data: The data set.
        image_encoder: The image encoder, as the search file names it.
        threads: The number of threads that decode and process the images of a batch.
        memory_bytes: The memory of the pictures that are decoded at the same time; see `RawImages`.

    Raises:
        DataError: If the images are not there.
        EncoderError: If the image processor cannot be loaded.
    """
    checkpoint = resolve_checkpoint(image_encoder, Path.cwd())
    preprocessor = Preprocessor(
        image_processor=load_image_processor(checkpoint), tokenizer=None, max_text_tokens=0, image_source=checkpoint
    )
    return RawImages(open_dataset_images(data), preprocessor, threads, memory_bytes)


class SplitImages:
    """The images of one split, of which a store has the paths and the numbers of pixels only.

    Args:
        directory: The folder of the split.
        images: The images; None if none will be read.
    """

    def __init__(self, directory: Path, images: RawImages | None) -> None:
        self._path = directory / IMAGE_NAMES
        self._images = images
        self._names = split_names(np.load(self._path))
        self.pixel_counts: NDArray[np.int64] = np.load(directory / IMAGE_PIXELS)
        """The number of pixels of each image, in storage order."""

    def pixel_values(self, indices: NDArray[np.int64], views: Sequence[int] | NDArray[np.int64] | None) -> Tensor:
        """Return the pixel values of one view of each image, (B, 3, height, width), decoded now.

        Args:
            indices: The index of each image, (B,).
            views: The index of its view, (B,); None for the images themselves.

        Raises:
            DataError: If an image cannot be read.
            ValueError: If the store was opened without the images.
        """
        if self._images is None:
            raise ValueError(f"{self._path.parent}: images are not stored; expected images to decode, got None")
        names = [self._names[index] for index in indices]
        chosen = [0] * len(names) if views is None else [int(view) for view in views]
        return self._images.pixel_values(names, chosen, int(self.pixel_counts[indices].max()))


def join_names(names: Iterable[str]) -> NDArray[np.uint8]:
    """Return the paths of images as one array of bytes; `split_names` returns them.

    Args:
        names: The paths.
    """
    return np.frombuffer(_SEPARATOR.join(name.encode("utf-8", "surrogateescape") for name in names), dtype=np.uint8)


def split_names(joined: NDArray[np.uint8]) -> list[str]:
    """Return the paths of images that `join_names` has joined.

    Args:
        joined: The array.
    """
    return [name.decode("utf-8", "surrogateescape") for name in joined.tobytes().split(_SEPARATOR)]
