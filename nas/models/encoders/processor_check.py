"""Check the values of an image processor, and that it turns pictures of any format into numbers of one shape."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image

from nas.common.boundary import reading, shown
from nas.models.encoders.folder_check import ErrorType

_CHANNELS = 3
_MAX_SIDE = 4096
_PROBES = ((96, 64), (64, 96))
"""The sizes of a landscape and of a portrait picture."""


def check_image_processor(processor: Any, where: str, error: ErrorType) -> None:
    """Check an image processor.

    Args:
        processor: The image processor of transformers.
        where: The file that describes it, for messages.
        error: The type of the error.

    Raises:
        NasError: If a value is not allowed, or pictures get different shapes; names the file, the key and the value.
    """
    values: Mapping[str, Any] = processor.to_dict()
    for key in ("size", "crop_size", "pad_size"):
        _check_size(values.get(key), where, key, error)
    for key in ("image_mean", "image_std"):
        _check_statistics(values.get(key), where, key, error)
    for key, value in values.items():
        if key.startswith("do_") and value is not None and not isinstance(value, bool):
            raise error(f"{where}: {key}: not allowed; expected true or false, got {shown(value)}")
    resample = values.get("resample")
    if resample is not None and (type(resample) is not int or resample not in Image.Resampling.__members__.values()):
        allowed = f"{min(Image.Resampling)} to {max(Image.Resampling)}"
        raise error(f"{where}: resample: not allowed; expected a filter of Pillow, {allowed}, got {shown(resample)}")
    factor = values.get("rescale_factor")
    if factor is not None and not (_is_finite(factor) and factor > 0):
        raise error(f"{where}: rescale_factor: not allowed; expected a positive number, got {shown(factor)}")
    shapes = []
    for size in _PROBES:
        with reading(where, expected="an image processor for RGB images", error=error, problem="does not work"):
            pixels = processor([Image.new("RGB", size, (90, 120, 150))], return_tensors="pt")["pixel_values"]
            shape, is_finite = tuple(pixels.shape[1:]), bool(torch.isfinite(pixels).all())
        if len(shape) != _CHANNELS or shape[0] != _CHANNELS or not is_finite:
            kind = "finite" if is_finite else "not finite"
            raise error(
                f"{where}: the image processor is not usable; expected finite values of the shape (3, height, width), "
                f"got {kind} values of the shape {shape}"
            )
        shapes.append(shape)
    if shapes[0] != shapes[1]:
        key, value = _shape_key(values)
        before = " and ".join(f"{wide} x {high}" for wide, high in _PROBES)
        after = " and ".join(f"{wide} x {high}" for _, high, wide in shapes)
        raise error(
            f"{where}: {key}: pictures of {before} pixels become {after}; expected one size for all pictures "
            f"(do_center_crop: true with crop_size, or a size with height and width), got {shown(value)}"
        )


def _shape_key(values: Mapping[str, Any]) -> tuple[str, Any]:
    """Return the key, with its value, that leaves pictures at different sizes."""
    size = values.get("size")
    if values.get("do_resize") and isinstance(size, Mapping) and {"height", "width"} <= set(size):
        return "do_pad", values.get("do_pad")
    if values.get("do_center_crop") is False:
        return "do_center_crop", False
    return ("size", size) if values.get("do_resize") else ("do_resize", values.get("do_resize"))


def _check_size(value: Any, where: str, key: str, error: ErrorType) -> None:
    sides = dict(value) if isinstance(value, Mapping) else {"": value}
    for name, side in sides.items():
        if side is None:
            continue
        if type(side) is not int or not 0 < side <= _MAX_SIDE:
            full = f"{key}.{name}" if name else key
            raise error(f"{where}: {full}: not allowed; expected 1 to {_MAX_SIDE} pixels, got {shown(side)}")


def _check_statistics(value: Any, where: str, key: str, error: ErrorType) -> None:
    if value is None:
        return
    numbers = list(value) if isinstance(value, list | tuple) else [value] * _CHANNELS
    is_allowed = len(numbers) == _CHANNELS and all(map(_is_finite, numbers))
    if not is_allowed or (key == "image_std" and min(numbers) <= 0):
        kind = "positive numbers" if key == "image_std" else "numbers"
        raise error(f"{where}: {key}: not allowed; expected {_CHANNELS} finite {kind}, got {shown(value)}")


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30 and math.isfinite(value)
