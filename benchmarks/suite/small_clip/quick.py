"""Synthetic pairs, to try the training without a download: coloured shapes and their names."""

from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageColor, ImageDraw

from benchmarks.suite.small_clip.sources import Pair, Picture
from demo.clipart_package import RENDER_SIZE

COLOURS = ("red", "green", "blue", "orange", "purple", "black")
SHAPES = ("circle", "square", "triangle", "cross")


def shapes() -> Iterator[tuple[Pair, Picture]]:
    """Yield every shape in every colour."""
    for shape in SHAPES:
        for colour in COLOURS:
            pair = Pair(f"{colour} {shape}", f"{colour} {shape}", (colour, shape), "shapes")
            yield pair, draw(shape, colour)


def draw(shape: str, colour: str, margin: int = 24) -> Picture:
    """Return a shape on white.

    Args:
        shape: One of `SHAPES`.
        colour: The name of a colour.
        margin: The distance to the border, in pixels.
    """
    low, high = margin, RENDER_SIZE - margin
    middle, ink = RENDER_SIZE // 2, ImageColor.getrgb(colour)
    picture = Image.new("RGB", (RENDER_SIZE, RENDER_SIZE), "white")
    canvas = ImageDraw.Draw(picture)
    if shape == "circle":
        canvas.ellipse((low, low, high, high), fill=ink)
    elif shape == "square":
        canvas.rectangle((low, low, high, high), fill=ink)
    elif shape == "triangle":
        canvas.polygon([(low, high), (high, high), (middle, low)], fill=ink)
    else:
        canvas.line((low, middle, high, middle), fill=ink, width=margin)
        canvas.line((middle, low, middle, high), fill=ink, width=margin)
    return np.asarray(picture, dtype=np.uint8)
