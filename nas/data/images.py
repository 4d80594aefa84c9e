"""Where images lie: a folder, or a ZIP file that holds one."""

import hashlib
import io
import os
import struct
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
"""What Pillow, zipfile and data sets raise for files that are missing, cut off, damaged, encrypted or far too large, or
whose EXIF is cut off or has values of another type than it says."""
_CHECKED_TOGETHER = 256
_WHITE = 65_535


def file_size(path: Path) -> int | None:
    """Bytes of a file; None where there is none."""
    try:
        return path.stat().st_size
    except (OSError, ValueError):  # a path with a zero byte is none
        return None


def _in_rgb(image: Image.Image) -> Image.Image:
    """As `ImageSource.open` gives it.

    Raises:
        Exception: Of `_UNREADABLE`.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # Pillow's own conversions of 16 bits cut off what is above 255
        image = _eight_bits(image)
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of no known scale; expected whole ones")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """A grey picture of 16 bits in 8, its transparent grey in white.

    Raises:
        ValueError: If it has other values than 16 bits can hold, whose scale nobody knows.
    """
    values, clear = np.asarray(image), image.info.get("transparency")
    least, most = int(values.min()), int(values.max())
    if least < 0 or most > _WHITE:
        raise ValueError(f"its pixels go from {least} to {most}; expected 0 to {_WHITE}")
    return Image.fromarray(np.where(values == clear, 255, values // 257).astype(np.uint8))


class ImageSource(ABC):
    """Opens images by the path that a manifest gives."""

    location: Path

    @abstractmethod
    def fingerprint(self, name: str) -> str | None:
        """A text that changes when the file does, without reading it whole; None where there is no such file."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Bytes of the file; None where there is none."""

    @abstractmethod
    def _bytes(self, name: str) -> bytes:
        """The file."""

    def _read(self, name: str) -> Image.Image:
        """The image, whose pixels need not be decoded yet."""
        return Image.open(io.BytesIO(self._bytes(name)))

    def digest(self, name: str) -> str | None:
        """SHA-256 of the file; None if it cannot be read."""
        try:
            return hashlib.sha256(self._bytes(name)).hexdigest()
        except _UNREADABLE:
            return None

    def open(self, name: str) -> Image.Image:
        """The image in RGB, turned upright, transparency on white.

        Raises:
            DataError: If it is missing or no image that Pillow can read; names the file.
        """
        try:
            return _in_rgb(self._read(name))
        except _UNREADABLE as error:
            raise DataError(f"{self.location}: image {name!r} cannot be read: {error}") from error

    def unreadable(
        self, names: Sequence[str], on_progress: Callable[[int, int], None] = lambda done, total: None
    ) -> list[str]:
        """Those of the named images that are missing or cannot be decoded; decodes on all cores.

        Args:
            names: As the manifest has them.
            on_progress: Told images done and images in all.
        """
        found: list[str] = []
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(names), _CHECKED_TOGETHER):
                chosen = names[start : start + _CHECKED_TOGETHER]
                reasons = pool.map(self.why_unreadable, chosen)
                found += [name for name, reason in zip(chosen, reasons, strict=True) if reason is not None]
                on_progress(start + len(chosen), len(names))
        return found

    def why_unreadable(self, name: str) -> str | None:
        """What is wrong with an image that cannot be read; None if it can."""
        try:
            image = self._read(name)
            if image.format == "JPEG":
                # An eighth of the size: every byte is still read, but little is computed of it.
                image.draft(image.mode, (1, 1))
                ImageOps.exif_transpose(image)
            else:
                _in_rgb(image)
        except _UNREADABLE as error:
            return str(error) or type(error).__name__
        return None


class FolderImages(ImageSource):
    """Images in a folder."""

    def __init__(self, location: Path) -> None:
        self.location = location

    def fingerprint(self, name: str) -> str | None:
        try:
            status = (self.location / name).stat()
        except (OSError, ValueError):  # a path with a zero byte is none
            return None
        return f"{status.st_size} {status.st_mtime_ns}"

    def size(self, name: str) -> int | None:
        return file_size(self.location / name)

    def _bytes(self, name: str) -> bytes:
        return (self.location / name).read_bytes()

    def _read(self, name: str) -> Image.Image:
        return Image.open(self.location / name)


class ZipImages(ImageSource):
    """Images in a ZIP file."""

    def __init__(self, location: Path) -> None:
        self.location = location
        try:
            self._archive = zipfile.ZipFile(location)
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{location}: cannot be opened as a ZIP file of images: {error}") from error

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
        return self._archive.read(name)  # several threads may read at once


def open_images(location: Path) -> ImageSource:
    """The source at a path.

    Raises:
        DataError: If it is neither a folder nor a ZIP file.
    """
    if location.is_dir():
        return FolderImages(location)
    if location.suffix.lower() == ".zip" and location.is_file():
        return ZipImages(location)
    raise DataError(f"{location}: there are no images here; expected a folder or a ZIP file")
