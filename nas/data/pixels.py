"""Convert pictures of every mode into RGB with 8 bits: grey values of any depth, palettes, transparency.

Integers deeper than 8 bits are scaled by the range that the file declares. Many programs declare nothing and store, for
example, the 12 bits of a camera in a PNG of 16 bits, which would be nearly black; then the smallest usual number of
bits that holds all values of the picture is taken, and the change is reported.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nas.common.errors import DataError

_USUAL_BITS = (8, 10, 12, 14, 16)
_DECLARED_BITS = (*_USUAL_BITS, 24, 32)
_SCALING_FORMATS = ("PPM", "JPEG2000")
"""Formats whose values Pillow scales to 16 bits as the file declares."""

_PHOTOMETRIC, _BITS_PER_SAMPLE, _MAX_VALUES = 262, 258, (281, 341)
"""TIFF tags."""

_MAX_COMBINED = 2**24
"""Pixels above which the lower bits of a picture of several channels are not decoded, since both halves need memory."""

TRANSPARENT = "are completely transparent, and therefore white"


class ImageProblem(DataError):
    """The reason why an image cannot be used; the source of the image completes the message with its name."""


class Depth(NamedTuple):
    """How the integers of a picture with more than 8 bits are scaled.

    Args:
        white: The value that becomes 255.
        is_inverted: Whether 0 is white, as in some TIFF files.
        change: The change to report; None if the file declares its range.
    """

    white: int
    is_inverted: bool = False
    change: str | None = None


@dataclass(frozen=True)
class Declared:
    """What a file declares about its pixel values, which Pillow forgets when it decodes them.

    Args:
        format: The name of the format; None for a picture that comes from no file.
        bits: The number of bits of each value, if below the 16 or 32 of the container.
        highest: The highest value, or None.
        is_inverted: Whether 0 is white and Pillow does not invert the values.
    """

    format: str | None = None
    bits: int | None = None
    highest: int | None = None
    is_inverted: bool = False


def read_declared(image: Image.Image) -> Declared:
    """Return what an opened file, before its pixels are decoded, declares about its values.

    Args:
        image: The picture as `PIL.Image.open` returns it.
    """
    if image.format == "PNG":
        return Declared("PNG", bits=_significant_bits(image))
    tags: Any = getattr(image, "tag_v2", None)
    if image.format != "TIFF" or tags is None:
        return Declared(image.format)
    bits = max(tags.get(_BITS_PER_SAMPLE, (8,)))
    declared = [value for tag in _MAX_VALUES for value in _as_tuple(tags.get(tag)) if isinstance(value, int)]
    highest = max(declared, default=None)
    return Declared(
        "TIFF",
        bits=bits if bits < 16 else None,
        highest=highest if highest is not None and 0 < highest < 2 ** min(bits, 32) else None,
        is_inverted=tags.get(_PHOTOMETRIC) == 0 and image.mode.startswith("I"),
    )


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _significant_bits(image: Image.Image) -> int | None:
    """Return the largest number in the sBIT chunk of a PNG file; None without one."""
    file: Any = getattr(image, "fp", None)
    if file is None or not _is_deep(image):
        return None
    position = file.tell()
    try:
        file.seek(8)
        while len(head := file.read(8)) == 8 and head[4:] not in (b"IDAT", b"IEND"):
            length = int.from_bytes(head[:4], "big")
            if head[4:] == b"sBIT":
                return max(file.read(min(length, 4)), default=None)
            file.seek(length + 4, 1)
        return None
    finally:
        file.seek(position)


def _is_deep(image: Image.Image) -> bool:
    """Return whether an opened file has integers of more than 8 bits."""
    return image.mode.startswith("I") or is_deep_colour(image)


def is_deep_colour(image: Image.Image) -> bool:
    """Return whether an opened file has several channels of 16 bits, of which Pillow decodes the higher 8."""
    return any(";16" in _raw_mode(tile) for tile in getattr(image, "tile", ())) and not image.mode.startswith("I")


def _raw_mode(tile: Any) -> str:
    arguments = tile[3]
    mode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return mode if isinstance(mode, str) else ""


def depth_of(image: Image.Image, declared: Declared) -> Depth | None:
    """Return how the integers of a decoded picture are scaled; None for pictures of 8 bits.

    Args:
        image: The picture; its values have been decoded.
        declared: What its file declares.

    Raises:
        ImageProblem: If values are negative or floating-point numbers, or too large for any usual range.
    """
    if image.mode == "F":
        raise ImageProblem("floating-point pixel values of unknown scale; expected integers")
    if not image.mode.startswith("I"):
        return None
    extremes = [(int(band.min()), int(band.max())) for band in _bands_of_values(image)]
    least, most = min(low for low, _ in extremes), max(high for _, high in extremes)
    if least < 0:
        raise ImageProblem(f"pixel values out of range; expected 0 to 65535, got {least} to {most}")
    step = 0
    if declared.format == "PNG" and declared.bits is not None and most < 2**declared.bits:
        step = 2 ** (16 - declared.bits)
    # The standard wants the bits that count on top; many files that declare fewer bits have them at the bottom.
    on_top = step > 1 and all(int((band % step).max()) <= 1 for band in _bands_of_values(image))
    return _choose_depth(most, declared, on_top=on_top, container=16 if image.mode.startswith("I;16") else 32)


def _choose_depth(most: int, declared: Declared, *, on_top: bool, container: int) -> Depth:
    if declared.format in _SCALING_FORMATS or on_top:
        return Depth(2**16 - 1)
    highest = declared.highest
    if declared.bits is not None and most < 2**declared.bits:
        highest = 2**declared.bits - 1
    if highest is not None and most <= highest:
        white = next(2**bits - 1 for bits in _DECLARED_BITS if highest < 2**bits)
        return Depth(white, declared.is_inverted)
    if most >= 2**16:
        raise ImageProblem(f"pixel values out of range; expected 0 to 65535, got 0 to {most}")
    bits = next(bits for bits in _USUAL_BITS if most < 2**bits)
    change = None if most == 0 or bits == container else f"have grey or colour values of {bits} bits in {container}"
    return Depth(2**bits - 1, declared.is_inverted, change and f"{change}, scaled by {2**bits - 1:,} to full range")


def _bands_of_values(image: Image.Image) -> Iterator[NDArray[np.int64]]:
    rows = max(2**22 // max(image.width, 1), 1)
    for top in range(0, image.height, rows):
        yield np.asarray(image.crop((0, top, image.width, min(top + rows, image.height)))).astype(np.int64)


def to_rgb(image: Image.Image, depth: Depth | None = None) -> Image.Image:
    """Return a decoded picture in RGB, with transparency on white.

    Args:
        image: The picture, in any mode.
        depth: The scale of integers of more than 8 bits, from `depth_of`.

    Raises:
        ValueError: If Pillow cannot convert the mode.
    """
    if depth is not None:
        image = _to_8_bits(image, depth)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(image: Image.Image, depth: Depth) -> Image.Image:
    """Return a grey picture in 8 bits, with its transparent grey value in white."""
    values, clear = np.asarray(image), image.info.get("transparency")
    scaled = np.minimum(values.astype(np.int64) * 255 // depth.white, 255)
    if depth.is_inverted:
        scaled = 255 - scaled
    return Image.fromarray(np.where(values == clear, 255, scaled).astype(np.uint8))


def is_transparent(image: Image.Image) -> bool:
    """Return whether every pixel of a decoded picture is transparent."""
    if image.mode not in ("RGBA", "LA"):
        return False
    highest: Any = image.getchannel("A").getextrema()
    return bool(highest[1] == 0)


def with_lower_bits(
    image: Image.Image, reopen: Callable[[], Image.Image], declared: Declared
) -> tuple[Image.Image, str | None]:
    """Return a picture of several channels of 16 bits scaled by the bits it uses, and the change to report.

    Pillow keeps the higher 8 of 16 bits. Where they are nearly unused, the lower ones are decoded as well, by reading
    the values in the other byte order.

    Args:
        image: The decoded picture, with the higher 8 bits.
        reopen: Opens the file again.
        declared: What the file declares.

    Raises:
        ImageProblem: If the lower bits are needed and cannot be decoded.
    """
    colours = [high for _, high in _channels(image.getextrema())][: 3 if image.mode != "CMYK" else 4]
    if max(colours) >= 2**6:  # 15 or 16 bits are used
        return image, None
    unknown = ImageProblem(
        "16-bit values of which at most 14 bits are used, so that their scale is unknown; expected values up to 65535, "
        "or 8 bits"
    )
    if image.width * image.height > _MAX_COMBINED:
        raise unknown
    with reopen() as again:
        again.tile = [_with_other_byte_order(tile) for tile in again.tile]  # type: ignore[attr-defined]
        try:
            low = np.asarray(again)
        except (ValueError, OSError) as error:
            raise unknown from error
    values = np.asarray(image).astype(np.uint16) * 256 + low
    depth = _choose_depth(int(values[..., :3].max()), declared, on_top=False, container=16)
    whites = np.full(values.shape[-1], depth.white)
    if image.mode == "RGBA" and values[..., 3].max() > depth.white:
        whites[3] = 2**16 - 1
    result = Image.fromarray(np.minimum(values.astype(np.int64) * 255 // whites, 255).astype(np.uint8), image.mode)
    return result, depth.change


def _channels(extrema: Any) -> tuple[tuple[int, int], ...]:
    return extrema if isinstance(extrema[0], tuple) else (extrema,)


def _with_other_byte_order(tile: Any) -> Any:
    mode = _raw_mode(tile)
    other = mode[:-1] + {"B": "L", "L": "B", "N": "B"}.get(mode[-1:], "?")
    arguments = tile[3]
    changed = (other, *arguments[1:]) if isinstance(arguments, tuple) else other
    return type(tile)(*tile[:3], changed)
