"""Pictures that a program holds in memory, as an image source: converted like the files of a data set."""

import io
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nas.common.boundary import shown
from nas.common.errors import DataError
from nas.config.data_schema import MAX_PIXELS
from nas.data.decoding import OpenFile, open_file
from nas.data.images import ImageSource, open_images

EXPECTED_PICTURE = "a picture of PIL, an array of uint8 (H, W), (H, W, 3) or (H, W, 4), the path or the bytes of a file"

_IN_MEMORY = threading.Lock()
"""Pictures of a program are copied one at a time: one may be in a list twice, and be decoded when it is first used."""


class GivenImages(ImageSource):
    """Pictures of PIL of any mode and the bytes of image files, each with a name for messages.

    Args:
        pictures: The pictures by name.
        max_pixels: The number of pixels that a picture may have.
    """

    def __init__(self, pictures: Mapping[str, Image.Image | bytes], max_pixels: int = MAX_PIXELS) -> None:
        super().__init__(Path("pictures"), max_pixels)
        self._pictures = pictures

    def fingerprint(self, name: str) -> str | None:
        del name
        return None

    def size(self, name: str) -> int | None:
        del name
        return None

    def open(self, name: str) -> Image.Image:
        picture = self._pictures[name]
        path = None if isinstance(picture, bytes) else undecoded_file(picture)
        if path is not None:  # its declared range would be lost in a copy
            return open_images(path.parent, self.max_pixels).open(path.name)
        return super().open(name)

    def _opener(self, name: str) -> OpenFile:
        picture = self._pictures[name]
        return picture.copy if isinstance(picture, Image.Image) else lambda: open_file(io.BytesIO(picture))

    def _chunks(self, name: str) -> Iterable[bytes]:
        picture = self._pictures[name]
        yield picture if isinstance(picture, bytes) else picture.tobytes()


def open_picture(picture: Any, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return a picture as the images of a data set are read, in RGB.

    Args:
        picture: A picture in any form that `as_picture` takes.
        name: Its name for messages.
        max_pixels: The number of pixels that it may have.

    Raises:
        DataError: If it is none, or cannot be read.
    """
    found = as_picture(picture, name)
    if isinstance(found, Image.Image | bytes):
        with _IN_MEMORY:
            return GivenImages({name: found}, max_pixels).open(name)
    path = Path(found)
    return open_images(path.parent, max_pixels).open(path.name)


def as_picture(value: Any, where: str) -> Image.Image | bytes | str | os.PathLike[str]:
    """Return a picture of PIL, or the bytes or the path of a file, for a picture in any form that programs hold.

    Args:
        value: A picture of PIL, an array of uint8 (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), a path, the bytes of a
            file, or a dictionary with `bytes` or `path`, as data sets of Hugging Face have it.
        where: The place of the picture, for messages.

    Raises:
        DataError: If it is something else.
    """
    if isinstance(value, Mapping) and ("bytes" in value or "path" in value):
        content = value.get("bytes")
        value = value.get("path") if content is None else content
    if isinstance(value, Image.Image | bytes) or (isinstance(value, str | os.PathLike) and os.fspath(value)):
        return value
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.size:
        array = value[:, :, 0] if value.ndim == 3 and value.shape[2] == 1 else value
        if array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4)):
            return Image.fromarray(array)
    got = f"an array of {value.dtype} {value.shape}" if isinstance(value, np.ndarray) else shown(value)
    raise DataError(f"{where}: not a picture; expected {EXPECTED_PICTURE}, got {got}")


def undecoded_file(picture: Image.Image) -> Path | None:
    """Return the file of a picture that was opened but not yet decoded; None for others.

    Args:
        picture: The picture.
    """
    name = getattr(picture, "filename", "")
    if not name or not getattr(picture, "tile", ()) or not Path(name).is_file():
        return None
    return Path(name)
