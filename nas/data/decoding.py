"""Decode image files of any size and origin in bounded memory.

The size of a picture is known before its pixels are decoded. Pictures above `max_pixels` are refused. Large ones are
decoded one at a time and reduced by a whole factor while they are converted, so that neither many threads nor a batch
of large pictures needs much memory: at most 4 bytes for each of `max_pixels`, or of the `_AT_ONCE` pixels together.
"""

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from nas.common.boundary import is_lfs_pointer
from nas.common.units import format_bytes
from nas.data.pixels import (
    TRANSPARENT,
    Depth,
    ImageProblem,
    depth_of,
    is_deep_colour,
    is_transparent,
    read_declared,
    to_rgb,
    with_lower_bits,
)

_LARGE = 2**24
"""Pixels above which a picture is reduced: encoders read far smaller ones, and photographs of 16 megapixels stay."""
_REDUCED = 2**22
_BAND = 2**22
_AT_ONCE = 2**26
_PIXEL_BYTES, _PROCESSING_BYTES = 24, 2**22
_MAX_ASPECT = 500
"""Image processors that resize the shorter side to a fixed length make the longer one that many times as long."""

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_START = 64
MAX_WHOLE = 128 * 2**20
"""Bytes of a WebP or AVIF file: above those of any photograph; their decoders hold the file several times."""
_EXTERNAL = frozenset({"EPS", "WMF"})
"""Formats that Pillow hands to other programs, which no limit would hold for."""

REDUCED = f"have more than {_LARGE // 10**6} million pixels, and are reduced while they are read"
FIRST_FRAME = "have several frames or pages, of which the first is used"

OpenFile = Callable[[], Image.Image]
"""Opens a file with Pillow, without decoding it."""


def picture_bytes(pixels: int) -> int:
    """Return the memory that decoding and processing a picture needs, at most.

    Measured from a file of 12 megapixels to the pixel values of an encoder: 14 to 16 bytes a pixel for JPEG and PNG
    with 8 bits, palettes and transparency included, and 22 for grey values of 16 bits.

    Args:
        pixels: The number of pixels of the file.
    """
    if pixels <= _LARGE:
        return _PROCESSING_BYTES + _PIXEL_BYTES * pixels
    # The whole picture, and the reduced one: a whole factor leaves at most 2.25 times the pixels that are aimed at.
    return _PROCESSING_BYTES + 4 * pixels + _PIXEL_BYTES * 9 * _REDUCED // 4


class _Slots:
    """Limits the pixels that all threads decode at the same time; one larger picture is decoded alone."""

    def __init__(self, pixels: int) -> None:
        self._total = self._free = pixels
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, pixels: int) -> Iterator[None]:
        amount = min(pixels, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= amount)
            self._free -= amount
        try:
            yield
        finally:
            with self._changed:
                self._free += amount
                self._changed.notify_all()


_SLOTS = _Slots(_AT_ONCE)
_OPENING = threading.Lock()


def check_start(start: bytes, size: int) -> None:
    """Check that a file is not too large for its format: Pillow reads files of some formats as a whole.

    Args:
        start: The first bytes of the file, at least 12 where it has as many.
        size: The size of the file in bytes.

    Raises:
        ImageProblem: If it is.
    """
    is_whole = (start[:4] == b"RIFF" and start[8:12] == b"WEBP") or start[4:8] == b"ftyp"
    if is_whole and size > MAX_WHOLE:
        raise ImageProblem(
            f"is too large; expected at most {format_bytes(MAX_WHOLE)} for WebP and AVIF, which are read as a whole, "
            f"got {format_bytes(size)}"
        )


def open_file(file: Path | BinaryIO) -> Image.Image:
    """Open an image file of any size without decoding it, and without the warnings and the limit of Pillow.

    Args:
        file: A path or a stream at its start.

    Raises:
        ImageProblem: If it is no image.
        Exception: Nearly any other, if it is damaged.
    """
    with _OPENING, warnings.catch_warnings():  # both settings belong to the whole process
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(file)
        except UnidentifiedImageError as error:
            raise _unidentified(file) from error
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    if image.format in _EXTERNAL:
        image.close()
        raise ImageProblem(
            f"has the format {image.format}, which is not supported; expected a picture made of pixels, such as PNG "
            "or JPEG"
        )
    return image


def _unidentified(file: Path | BinaryIO) -> ImageProblem:
    if isinstance(file, Path):
        with file.open("rb") as opened:
            start = opened.read(_START)
    else:
        file.seek(0)
        start = file.read(_START)
    if is_lfs_pointer(start):
        return ImageProblem("is a Git LFS pointer; expected an image; run `git lfs pull` in its repository")
    problem = "is empty" if not start else "is not an image"
    return ImageProblem(f"{problem}; expected a file in a format that Pillow can decode")


def check_size(image: Image.Image, max_pixels: int) -> None:
    """Check the size of an opened file, before it is decoded.

    Args:
        image: The picture.
        max_pixels: The number of pixels that it may have.

    Raises:
        ImageProblem: If it has no pixels, more, or sides of too different lengths.
    """
    width, height = image.size
    if min(width, height) < 1:
        raise ImageProblem(f"the picture is empty; expected at least one pixel, got {width} x {height}")
    if width * height > max_pixels:
        raise ImageProblem(
            f"the picture is too large; expected at most {max_pixels:,} pixels (data.max_pixels), got {width:,} x "
            f"{height:,}"
        )
    if max(width, height) > _MAX_ASPECT * min(width, height):
        raise ImageProblem(
            f"the sides differ too much; expected a longer side of at most {_MAX_ASPECT} times the shorter one, got "
            f"{width:,} x {height:,}"
        )


def decode(open_again: OpenFile, max_pixels: int) -> tuple[Image.Image, list[str]]:
    """Return a picture in RGB, upright, with transparency on white, and the changes to report.

    Args:
        open_again: Opens the file; called twice for some files.
        max_pixels: The number of pixels that it may have.

    Raises:
        Exception: Nearly any, if the file is missing or damaged.
    """
    with open_again() as image:
        check_size(image, max_pixels)
        changes = [FIRST_FRAME] if image.format != "MPO" and getattr(image, "is_animated", False) else []
        factor = _reduction(image)
        if factor > 1:
            changes.append(REDUCED)
            image.draft(image.mode, (image.width // factor, image.height // factor))  # only JPEG can
        with _SLOTS.reserve(image.width * image.height):
            declared, is_deep = read_declared(image), is_deep_colour(image)
            image.load()
            picture: Image.Image = image
            if is_deep:
                picture, change = with_lower_bits(image, open_again, declared)
                changes += [change] if change else []
            depth = depth_of(picture, declared)
            if depth is not None and depth.change:
                changes.append(depth.change)
            if is_transparent(picture):
                changes.append(TRANSPARENT)
            orientation = image.getexif().get(_ORIENTATION)
            result = _converted(picture, depth, _reduction(picture))
            picture.close()  # frees the pixels before another thread may decode
        return _upright(result, orientation), changes


def check_decodable(open_again: OpenFile, max_pixels: int) -> list[str]:
    """Decode a picture as `decode` does, but with little work for JPEG, and return the changes to report."""
    with open_again() as image:
        if image.format == "JPEG":
            check_size(image, max_pixels)
            changes = [REDUCED] if _reduction(image) > 1 else []
            # At an eighth of the size every byte is still read, but little is computed.
            image.draft(image.mode, (1, 1))
            with _SLOTS.reserve(image.width * image.height):
                image.load()
                _upright(image, image.getexif().get(_ORIENTATION))
            return changes
    return decode(open_again, max_pixels)[1]


def _reduction(image: Image.Image) -> int:
    pixels = image.width * image.height
    return int((pixels / _REDUCED) ** 0.5) if pixels > _LARGE else 1


def _converted(image: Image.Image, depth: Depth | None, factor: int) -> Image.Image:
    """Return a decoded picture in RGB, reduced by a factor; a large one is converted band by band."""
    if factor == 1:
        return to_rgb(image, depth)
    width, height = image.size
    result = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    rows = max(_BAND // width // factor, 1) * factor
    for top in range(0, height, rows):
        band = image.crop((0, top, width, min(top + rows, height)))
        result.paste(to_rgb(band, depth).reduce(factor), (0, top // factor))
    return result


def _upright(image: Image.Image, orientation: object) -> Image.Image:
    """Return a picture turned as its EXIF data say."""
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)
