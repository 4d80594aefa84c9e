"""Find what no pretraining may see: the validation and test pictures of every task of the suite, and near copies.

Two pictures are near copies if they are look-alikes by the measure that keeps related drawings of the demo in one
split (`demo.build_data.alike`): similar thumbnails in grey and colour, edges, or filled outlines. All are compared at
the size of the demo's pictures, since edges depend on it.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.suite.data_set import DataSet
from benchmarks.suite.tasks import TASKS
from demo.build_data import IMAGE_SIZE, alike, thumbnails

Pictures = Sequence[NDArray[np.uint8]] | NDArray[np.uint8]

_BLOCK = 512


def held_out_pictures(data: DataSet) -> list[NDArray[np.uint8]]:
    """Return the validation and test pictures of a data set, each once, RGB (H, W, 3)."""
    names = dict.fromkeys(sample.image for sample in data.read() if sample.split != "train")
    return [np.asarray(picture, dtype=np.uint8) for picture in data.pictures(names)]


def held_out_of_suite(
    packages: Path, work: Path, grocery: Path | None
) -> tuple[list[NDArray[np.uint8]], dict[str, int | None]]:
    """Build the whole form of every task, and return its validation and test pictures.

    Args:
        packages: The folder of packages.
        work: The folder in which the tasks are built.
        grocery: The source of the task that no package has; None leaves it out.

    Returns:
        The pictures, and their number by task; None if the source of the task is missing.
    """
    pictures: list[NDArray[np.uint8]] = []
    counts: dict[str, int | None] = {}
    for name, task in TASKS.items():
        source = grocery if task.needs_source else packages
        if source is None:
            counts[name] = None
            continue
        found = held_out_pictures(task.build(work / name, source, "whole"))
        pictures += found
        counts[name] = len(found)
    return pictures, counts


def near_copies(pictures: Pictures, held_out: Pictures) -> NDArray[np.bool_]:
    """Return which pictures are copies or near copies of a held-out one, (N,).

    Args:
        pictures: N pictures on white, squares of any size.
        held_out: Pictures of any size.
    """
    found = np.zeros(len(pictures), dtype=np.bool_)
    if not len(held_out):
        return found
    hidden = thumbnails(map(_shrunk, held_out))
    for start in range(0, len(pictures), _BLOCK):
        block = thumbnails(map(_shrunk, pictures[start : start + _BLOCK]))
        found[start : start + _BLOCK] = alike(block, hidden).any(axis=1)
    return found


def _shrunk(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture at the size of the demo's."""
    size = (IMAGE_SIZE, IMAGE_SIZE)
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS), dtype=np.uint8)
