"""Pictures that a program holds in memory, as an image source: converted like the files of a data set."""

import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from nas.common.boundary import shown
from nas.common.errors import DataError
from nas.config.data_schema import MAX_PIXELS
from nas.data.decoding import OpenFile
from nas.data.images import ImageSource, open_images

_IN_MEMORY = threading.Lock()
"""Pictures of a program are copied one at a time: one may be in a list twice, and be decoded when it is first used."""


class GivenImages(ImageSource):
    """Pictures of PIL of any mode, each with a name for messages.

    Args:
        pictures: The pictures by name.
        max_pixels: The number of pixels that a picture may have.
    """

    def __init__(self, pictures: Mapping[str, Image.Image], max_pixels: int = MAX_PIXELS) -> None:
        super().__init__(Path("pictures"), max_pixels)
        self._pictures = pictures

    def fingerprint(self, name: str) -> str | None:
        del name
        return None

    def size(self, name: str) -> int | None:
        del name
        return None

    def open(self, name: str) -> Image.Image:
        path = _undecoded_file(self._pictures[name])
        if path is not None:  # its declared range would be lost in a copy
            return open_images(path.parent, self.max_pixels).open(path.name)
        return super().open(name)

    def _opener(self, name: str) -> OpenFile:
        return self._pictures[name].copy

    def _chunks(self, name: str) -> Iterable[bytes]:
        yield self._pictures[name].tobytes()


def open_picture(picture: Any, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return a picture as the images of a data set are read, in RGB.

    Args:
        picture: A picture of PIL of any mode, or the path of an image file.
        name: Its name for messages.
        max_pixels: The number of pixels that it may have.

    Raises:
        DataError: If it is neither, or cannot be read.
    """
    if isinstance(picture, Image.Image):
        with _IN_MEMORY:
            return GivenImages({name: picture}, max_pixels).open(name)
    if not isinstance(picture, str | os.PathLike):
        raise DataError(f"{name}: not allowed; expected a picture of PIL or the path of one, got {shown(picture)}")
    path = Path(picture)
    return open_images(path.parent, max_pixels).open(path.name)


def _undecoded_file(picture: Image.Image) -> Path | None:
    """Return the file of a picture that was opened but not yet decoded; None for others."""
    name = getattr(picture, "filename", "")
    if not name or not getattr(picture, "tile", ()) or not Path(name).is_file():
        return None
    return Path(name)
