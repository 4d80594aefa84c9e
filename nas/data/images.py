"""Image sources: a folder, or a ZIP file with images."""

import hashlib
import io
import os
import struct
import sys
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from nas.common.errors import DataError

_UNREADABLE = (
    OSError,
    LookupError,
    SyntaxError,
    ValueError,
    EOFError,
    RuntimeError,
    TypeError,
    AttributeError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    Image.DecompressionBombError,
)
"""Errors of Pillow, zipfile and `datasets` for files that are missing, truncated, damaged, encrypted or far too large,
or whose EXIF data are truncated or have values of the wrong type."""
_CHECK_BATCH = 256
_MAX_16_BIT = 65_535


def file_size(path: Path) -> int | None:
    """Return the size of a file in bytes; None if it does not exist."""
    try:
        return path.stat().st_size
    except (OSError, ValueError):  # ValueError: a path with a null byte
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return the image in RGB, upright, with transparency on white.

    Raises:
        Exception: One of `_UNREADABLE`, if the image cannot be decoded or converted.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # Pillow's own conversion from 16 bits clips values above 255
        image = _to_8_bits(image)
    if image.mode == "F":
        raise ValueError("floating-point pixel values of unknown scale; expected integers")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Return a grey image of 16 bits in 8 bits, with its transparent grey value in white.

    Raises:
        ValueError: If pixel values are outside 16 bits, so that their scale is unknown.
    """
    values, clear = np.asarray(image), image.info.get("transparency")
    least, most = int(values.min()), int(values.max())
    if least < 0 or most > _MAX_16_BIT:
        raise ValueError(f"pixel values out of range; expected 0 to {_MAX_16_BIT}, got {least} to {most}")
    return Image.fromarray(np.where(values == clear, 255, values // 257).astype(np.uint8))


class ImageSource(ABC):
    """Opens the images of a data set by their paths."""

    location: Path

    @abstractmethod
    def fingerprint(self, name: str) -> str | None:
        """Return a string that changes when the file does, without reading all of it; None if there is no file."""

    def modified_ns(self, name: str) -> int:
        """Return the modification time in nanoseconds; 0 where the fingerprint contains no time."""
        del name
        return 0

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Return the size of the file in bytes; None if it does not exist."""

    @abstractmethod
    def _bytes(self, name: str) -> bytes:
        """Return the content of the file."""

    def _read(self, name: str) -> Image.Image:
        """Return the image, possibly before its pixels are decoded."""
        return Image.open(io.BytesIO(self._bytes(name)))

    def digest(self, name: str) -> str | None:
        """Return the SHA-256 digest of the file; None if it cannot be read."""
        try:
            return hashlib.sha256(self._bytes(name)).hexdigest()
        except _UNREADABLE:
            return None

    def open(self, name: str) -> Image.Image:
        """Return the image in RGB, turned upright as its EXIF data say, with transparency on white.

        Args:
            name: Path of the image within the source.

        Raises:
            DataError: If the image is missing or Pillow cannot decode it; names the file.
        """
        try:
            return _to_rgb(self._read(name))
        except _UNREADABLE as error:
            raise DataError(f"{self.location}: image {name!r} cannot be read: {error}") from error

    def find_unreadable(
        self, names: Sequence[str], on_progress: Callable[[int, int], None] = lambda done, total: None
    ) -> list[str]:
        """Decode images on all cores and return the names of those that are missing or cannot be decoded.

        Args:
            names: Paths of the images within the source.
            on_progress: Callback that receives the numbers of images done and in total.
        """
        found: list[str] = []
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(names), _CHECK_BATCH):
                chosen = names[start : start + _CHECK_BATCH]
                reasons = pool.map(self.read_error, chosen)
                found += [name for name, reason in zip(chosen, reasons, strict=True) if reason is not None]
                on_progress(start + len(chosen), len(names))
        return found

    def read_error(self, name: str) -> str | None:
        """Return why an image cannot be decoded; None if it can."""
        try:
            image = self._read(name)
            if image.format == "JPEG":
                # At an eighth of the size every byte is still read, but little is computed.
                image.draft(image.mode, (1, 1))
                ImageOps.exif_transpose(image)
            else:
                _to_rgb(image)
        except _UNREADABLE as error:
            return str(error) or type(error).__name__
        return None


class FolderImages(ImageSource):
    """Images in a folder.

    Args:
        location: Path of the folder.
    """

    def __init__(self, location: Path) -> None:
        self.location = location

    def fingerprint(self, name: str) -> str | None:
        try:
            status = (self.location / name).stat()
        except (OSError, ValueError):  # ValueError: a path with a null byte
            return None
        return f"{status.st_size} {status.st_mtime_ns}"

    def modified_ns(self, name: str) -> int:
        try:
            return (self.location / name).stat().st_mtime_ns
        except (OSError, ValueError):
            return sys.maxsize

    def size(self, name: str) -> int | None:
        return file_size(self.location / name)

    def _bytes(self, name: str) -> bytes:
        return (self.location / name).read_bytes()

    def _read(self, name: str) -> Image.Image:
        return Image.open(self.location / name)


class ZipImages(ImageSource):
    """Images in a ZIP file.

    Args:
        location: Path of the ZIP file.

    Raises:
        DataError: If the file is not a ZIP archive.
    """

    def __init__(self, location: Path) -> None:
        self.location = location
        try:
            self._archive = zipfile.ZipFile(location)
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{location}: cannot be opened ({error}); expected a ZIP file of images") from error

    def fingerprint(self, name: str) -> str | None:
        try:
            entry = self._archive.getinfo(name)
        except KeyError:
            return None
        return f"{entry.file_size} {entry.CRC}"

    def size(self, name: str) -> int | None:
        try:
            return self._archive.getinfo(name).file_size
        except KeyError:
            return None

    def _bytes(self, name: str) -> bytes:
        return self._archive.read(name)  # thread-safe


def open_images(location: Path) -> ImageSource:
    """Open the image source at a path.

    Args:
        location: Path of a folder or a ZIP file.

    Raises:
        DataError: If it is neither a folder nor a ZIP file.
    """
    if location.is_dir():
        return FolderImages(location)
    if location.suffix.lower() == ".zip" and location.is_file():
        return ZipImages(location)
    raise DataError(f"{location}: no images found; expected a folder or a ZIP file")
