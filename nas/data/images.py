"""Image sources: a folder, or a ZIP file with images."""

import hashlib
import io
import os
import sys
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from PIL import Image

from nas.common.boundary import check_no_lfs_pointer, check_regular_file, reading, shown
from nas.common.errors import DataError
from nas.common.files import file_size
from nas.common.units import format_bytes
from nas.config.data_schema import MAX_PIXELS
from nas.data.archive import open_archive
from nas.data.decoding import MAX_WHOLE, OpenFile, check_decodable, check_start, decode, open_file
from nas.data.image_names import FolderNames, foreign_path_hint
from nas.data.pixels import ImageProblem

_CHECK_BATCH = 256
_CHUNK = 2**20
_BYTES_PER_PIXEL = 6
_LARGE_FILE = 2**24
_ENCRYPTED = 0x1
_ARCHIVE = ".zip"


class ImageSource(ABC):
    """Opens the images of a data set by their paths.

    Args:
        location: The folder or file, for messages.
        max_pixels: The number of pixels that an image may have.
    """

    def __init__(self, location: Path, max_pixels: int = MAX_PIXELS) -> None:
        self.location = location
        self.max_pixels = max_pixels
        self._changes: dict[str, dict[str, None]] = {}

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
    def _opener(self, name: str) -> OpenFile:
        """Return what opens the file.

        Raises:
            Exception: Nearly any, if the file is missing or damaged.
        """

    @abstractmethod
    def _chunks(self, name: str) -> Iterable[bytes]:
        """Return the content of the file in parts."""

    def is_missing(self, name: str) -> bool:
        """Return whether there is certainly no such image, at once; one that cannot be read is not missing."""
        del name
        return False

    def own_name(self, name: str) -> str:
        """Return the name under which the source has an image that is spelt in another way; others unchanged."""
        return name

    def digest(self, name: str) -> str | None:
        """Return the SHA-256 digest of the file; None if it cannot be read."""
        digest = hashlib.sha256()
        try:
            with self._reading(name):
                for chunk in self._chunks(name):
                    digest.update(chunk)
        except DataError:
            return None
        return digest.hexdigest()

    def open(self, name: str) -> Image.Image:
        """Return the image in RGB, turned upright as its EXIF data say, with transparency on white.

        An image of more than 16 million pixels is reduced.

        Args:
            name: Path of the image within the source.

        Raises:
            DataError: If the image is missing, too large, or Pillow cannot decode it; names the file.
        """
        with self._reading(name):
            image, changes = decode(self._opener(name), self.max_pixels)
        self._record(name, changes)
        return image

    def pixel_count(self, name: str) -> int:
        """Return the number of pixels of an image, of which only the start is read.

        Raises:
            DataError: As `open` does.
        """
        with self._reading(name), self._opener(name)() as image:
            return image.width * image.height

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
                found += [name for name, fails in zip(chosen, pool.map(self._fails, chosen), strict=True) if fails]
                on_progress(start + len(chosen), len(names))
        return found

    def _fails(self, name: str) -> bool:
        """Return whether an image cannot be decoded."""
        # A reason names what could be meant, from all names; where all are wrong, that would take quadratic time.
        return self.is_missing(name) or self.read_error(name) is not None

    def read_error(self, name: str) -> str | None:
        """Return why an image cannot be decoded; None if it can."""
        try:
            with self._reading(name):
                changes = check_decodable(self._opener(name), self.max_pixels)
        except DataError as error:
            return str(error).removeprefix(f"{self._subject(name)}: ")
        self._record(name, changes)
        return None

    @property
    def changes(self) -> Mapping[str, Sequence[str]]:
        """What was changed in the images read so far, such as "have several frames", each with the images' names."""
        return {change: tuple(names) for change, names in list(self._changes.items())}

    def _record(self, name: str, changes: Iterable[str]) -> None:
        for change in changes:
            self._changes.setdefault(change, {})[name] = None

    def _check_format(self, name: str, size: int) -> None:
        """Raise ImageProblem if a file is too large for its format."""
        if size > MAX_WHOLE:
            check_start(next(iter(self._chunks(name)), b""), size)

    def _check_bytes(self, size: int) -> None:
        """Raise ImageProblem if a file is too large to hold an image of the allowed number of pixels."""
        limit = self.max_pixels * _BYTES_PER_PIXEL
        if size > max(limit, _LARGE_FILE):
            raise ImageProblem(
                f"is too large; expected at most {format_bytes(limit)} ({_BYTES_PER_PIXEL} bytes for each of "
                f"data.max_pixels), got {format_bytes(size)}"
            )

    def _subject(self, name: str) -> str:
        return f"{self.location}: image {shown(name, 200)}"

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Turn all failures of reading an image into an error that names it."""
        subject = self._subject(name)
        try:
            with reading(subject, expected="an image that Pillow can decode", error=DataError):
                yield
        except ImageProblem as problem:
            raise DataError(f"{subject}: {problem}") from problem


class FolderImages(ImageSource):
    """Images in a folder, and in ZIP files in it: `part-1.zip/0001.jpg`.

    Args:
        location: Path of the folder.
        max_pixels: The number of pixels that an image may have.
    """

    def __init__(self, location: Path, max_pixels: int = MAX_PIXELS) -> None:
        super().__init__(location, max_pixels)
        self._names = FolderNames(location)
        self._archives: dict[str, ZipImages | None] = {}

    def _inside(self, name: str) -> "tuple[str, ZipImages, str] | None":
        """Return the name of the archive that an image is in, the archive, and the name inside; None for a file."""
        place, mark, inner = name.partition(f"{_ARCHIVE}/")
        place += _ARCHIVE
        if mark and place not in self._archives:
            path = self._names.find(place)
            self._archives[place] = ZipImages(path, self.max_pixels) if path is not None and path.is_file() else None
        archive = self._archives[place] if mark else None
        return None if archive is None else (place, archive, inner)

    def own_name(self, name: str) -> str:
        if found := self._inside(name):
            return f"{found[0]}/{found[1].own_name(found[2])}"
        path = self._names.find(name)
        return name if path is None or path == self.location / name else path.relative_to(self.location).as_posix()

    def is_missing(self, name: str) -> bool:
        found = self._inside(name)
        return self._names.find(name) is None if found is None else found[1].is_missing(found[2])

    def fingerprint(self, name: str) -> str | None:
        if found := self._inside(name):
            return found[1].fingerprint(found[2])
        path = self._names.find(name)
        try:
            status = None if path is None else path.stat()
        except OSError:
            return None
        return None if status is None else f"{status.st_size} {status.st_mtime_ns}"

    def modified_ns(self, name: str) -> int:
        if self._inside(name):
            return 0
        path = self._names.find(name)
        try:
            return sys.maxsize if path is None else path.stat().st_mtime_ns
        except OSError:
            return sys.maxsize

    def size(self, name: str) -> int | None:
        if found := self._inside(name):
            return found[1].size(found[2])
        path = self._names.find(name)
        return None if path is None else file_size(path)

    def _path(self, name: str) -> Path:
        path = self._names.find(name)
        if path is None:
            raise missing_image(foreign_path_hint(name) or self._names.hint(name))
        self._check_bytes(check_regular_file(path, expected="an image file", error=DataError))
        return path

    def _chunks(self, name: str) -> Iterable[bytes]:
        if found := self._inside(name):
            yield from found[1]._chunks(found[2])
            return
        with self._path(name).open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk

    def _opener(self, name: str) -> OpenFile:
        if found := self._inside(name):
            return found[1]._opener(found[2])
        path = self._path(name)
        self._check_format(name, path.stat().st_size)
        return lambda: open_file(path)


class ZipImages(ImageSource):
    """Images in a ZIP file.

    Args:
        location: Path of the ZIP file.
        max_pixels: The number of pixels that an image may have.

    Raises:
        DataError: If the file is not a ZIP archive.
    """

    def __init__(self, location: Path, max_pixels: int = MAX_PIXELS) -> None:
        super().__init__(location, max_pixels)
        expected = "a ZIP file of images"
        check_no_lfs_pointer(location, expected=expected, error=DataError)
        with reading(location, expected=expected, error=DataError, problem="cannot be opened"):
            self._archive = open_archive(location)

    def own_name(self, name: str) -> str:
        return self._archive.find(name) or name

    def _entry(self, name: str) -> zipfile.ZipInfo | None:
        found = self._archive.entries(name)
        return found[-1] if found else None

    def is_missing(self, name: str) -> bool:
        return self._entry(name) is None

    def fingerprint(self, name: str) -> str | None:
        entry = self._entry(name)
        return None if entry is None else f"{entry.file_size} {entry.CRC}"

    def size(self, name: str) -> int | None:
        entry = self._entry(name)
        return None if entry is None else entry.file_size

    def _checked_entry(self, name: str) -> zipfile.ZipInfo:
        found = self._archive.entries(name)
        if not found:
            raise missing_image(foreign_path_hint(name) or self._archive.hint(name))
        if len({(entry.file_size, entry.CRC) for entry in found}) > 1:
            raise ImageProblem("the archive has several files of this name; expected one")
        if found[-1].flag_bits & _ENCRYPTED:
            raise ImageProblem("is encrypted; expected an archive without a password")
        return found[-1]

    def _chunks(self, name: str) -> Iterable[bytes]:
        with self._archive.open(self._checked_entry(name)) as file:  # thread-safe
            while chunk := file.read(_CHUNK):
                yield chunk

    def _opener(self, name: str) -> OpenFile:
        entry = self._checked_entry(name)
        self._check_bytes(entry.file_size)
        self._check_format(name, entry.file_size)
        if entry.file_size > _LARGE_FILE:  # not in memory as a whole
            return lambda: open_file(cast(BinaryIO, self._archive.open(entry)))
        content = b"".join(self._chunks(name))
        return lambda: open_file(io.BytesIO(content))


def missing_image(hint: str) -> ImageProblem:
    """Return the problem of an image that does not exist, with a hint of what could be meant, which may be empty."""
    return ImageProblem(f"is missing; expected a path relative to data.images{hint and f'; {hint}'}")


def open_images(location: Path, max_pixels: int = MAX_PIXELS) -> ImageSource:
    """Open the image source at a path.

    Args:
        location: Path of a folder or a ZIP file.
        max_pixels: The number of pixels that an image may have.

    Raises:
        DataError: If it is neither a folder nor a ZIP file.
    """
    expected = "a folder or a ZIP file"
    with reading(location, expected=expected, error=DataError, problem="no images found"):
        is_folder = location.is_dir()
    if is_folder:
        return FolderImages(location, max_pixels)
    check_regular_file(location, expected=f"{expected} of images", error=DataError)
    return ZipImages(location, max_pixels)
