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
from nas.data.images import ImageSource
from nas.data.preprocessing import Preprocessor
from nas.models.encoders.checkpoints import resolve_checkpoint
from nas.models.encoders.pretrained import load_image_processor

_SEPARATOR = b"\0"
"""Separates the paths of images: no path contains it."""


class RawImages:
    """The images of a data set, decoded and processed on demand.

    Args:
        source: The images.
        preprocessor: Provides the image processor.
        threads: The number of threads that decode and process the images of a batch.
    """

    def __init__(self, source: ImageSource, preprocessor: Preprocessor, threads: int = 1) -> None:
        self._source = source
        self._preprocessor = preprocessor
        self._threads = threads

    def pixel_values(self, names: Sequence[str], views: Sequence[int]) -> Tensor:
        """Return the pixel values of one view of each image, (B, 3, height, width), float32.

        Args:
            names: The path of each image.
            views: The index of its view; 0 is the image itself.

        Raises:
            DataError: If an image cannot be read.
        """
        count = min(self._threads, len(names))
        if count <= 1:
            return self._pixels(names, views)
        parts = [part.tolist() for part in np.array_split(np.arange(len(names)), count)]
        with ThreadPoolExecutor(count, thread_name_prefix="decoding") as pool:
            found = pool.map(lambda part: self._pixels([names[i] for i in part], [views[i] for i in part]), parts)
            return torch.cat(list(found))

    def _pixels(self, names: Sequence[str], views: Sequence[int]) -> Tensor:
        images = [augment(self._source.open(name), name, view) for name, view in zip(names, views, strict=True)]
        return self._preprocessor.pixel_values(images)


def open_raw_images(data: DataConfig, image_encoder: str, threads: int) -> RawImages:
    """Open the images of a data set for an encoder.

    Args:
        data: The data set.
        image_encoder: The image encoder, as the search file names it.
        threads: The number of threads that decode and process the images of a batch.

    Raises:
        DataError: If the images are not there.
        EncoderError: If the image processor cannot be loaded.
    """
    checkpoint = resolve_checkpoint(image_encoder, Path.cwd())
    preprocessor = Preprocessor(
        image_processor=load_image_processor(checkpoint), tokenizer=None, max_text_tokens=0, image_source=checkpoint
    )
    return RawImages(open_dataset_images(data), preprocessor, threads)


class SplitImages:
    """The images of one split, of which a store has the paths only.

    Args:
        path: The file of the paths, in storage order.
        images: The images; None if none will be read.
    """

    def __init__(self, path: Path, images: RawImages | None) -> None:
        self._path = path
        self._images = images
        self._names = split_names(np.load(path))

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
        return self._images.pixel_values(names, [0] * len(names) if views is None else [int(view) for view in views])


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
