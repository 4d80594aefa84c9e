"""The numbers of pixels of images, which decoding them needs memory for."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from nas.data.images import ImageSource

_AT_ONCE = 4096
"""The number of images that are given to threads at a time, so that a million of them need little memory."""


def pixel_counts(images: ImageSource, names: Sequence[str]) -> NDArray[np.int64]:
    """Return the number of pixels of each image, (N,), of which only the start is read.

    Args:
        images: The source of the images.
        names: The path of each image.

    Raises:
        DataError: If an image cannot be opened.
    """
    counts = np.zeros(len(names), dtype=np.int64)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(names), _AT_ONCE):
            chosen = names[start : start + _AT_ONCE]
            counts[start : start + len(chosen)] = list(pool.map(images.pixel_count, chosen))
    return counts
