"""Find the images that a table names, and whether they are drawings."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from nas.common.boundary import shortened, shown
from nas.common.errors import ArgumentError, DataError
from nas.data.image_places import found_shares
from nas.data.images import ImageSource

_ENOUGH = 0.5
"""The part of the tried images that the place must have."""
_OPENED = 24
_DRAWN = 0.5
"""The part of neighbouring pixels that are equal in a drawing; a photograph has fewer, because of its noise."""
_SIDE = 256


def find_place(table: Path, names: Sequence[str], given: Path | None) -> tuple[Path, float]:
    """Return the place of the images, and the part of the first ones that it has.

    Args:
        table: The table.
        names: The paths of images in it.
        given: The place that the user has named; others are tried where it does not have them.

    Raises:
        ArgumentError: If no place has most of them.
    """
    shares = found_shares(names, given=given, near=table.parent)
    best = max(shares, key=lambda place: shares[place])
    if shares[best] < _ENOUGH:
        tried = shortened(", ".join(map(str, shares)), 300)
        raise ArgumentError(
            f"--images: the images are not found; expected a folder or a ZIP file with {shown(names[0])}, tried {tried}"
        )
    return best, shares[best]


def are_drawings(source: ImageSource, names: Sequence[str]) -> bool:
    """Return whether most of the first images are drawings: large parts of one colour each.

    Args:
        source: The images.
        names: Their paths; those that cannot be read are passed over.
    """
    shares = []
    for name in list(dict.fromkeys(names))[:_OPENED]:
        try:
            image = source.open(name)
        except DataError:  # a check names it
            continue
        shares.append(_equal_neighbours(image))
    return sum(share > _DRAWN for share in shares) > len(shares) / 2


def _equal_neighbours(image: Image.Image) -> float:
    """Return the part of horizontally neighbouring pixels with the same colour, in the middle of an image."""
    width, height = image.size
    left, top = max(width - _SIDE, 0) // 2, max(height - _SIDE, 0) // 2
    pixels = np.asarray(image.crop((left, top, min(left + _SIDE, width), min(top + _SIDE, height))))
    if pixels.shape[1] < 2:
        return 0.0
    return float((pixels[:, 1:] == pixels[:, :-1]).all(axis=2).mean())
