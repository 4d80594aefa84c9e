"""Pictures and texts by number: always the same ones, no two pictures alike, and both tell something of the class."""

import io
import random

import numpy as np
from PIL import Image

PICTURE_SIZE = 16
WORDS = tuple(
    f"{first}{second}{third}" for first in "bdfgklmnprst" for second in "aeiou" for third in ("n", "r", "s", "l")
)
"""The words of all texts: 240."""


def picture(number: int, label: int, classes: int) -> bytes:
    """Return the JPEG file of a picture: noise around a colour that all pictures of a class share.

    Args:
        number: The number of the picture.
        label: Its class.
        classes: The number of classes.
    """
    noise = np.random.default_rng(number).integers(-60, 60, (PICTURE_SIZE, PICTURE_SIZE, 3))
    shade = 255 * label // max(classes - 1, 1)
    values = np.clip(np.array([shade, 255 - shade, 128]) + noise, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "JPEG", quality=75)
    return file.getvalue()


def text(number: int, label: int, words: int = 8) -> str:
    """Return a text whose first word is that of its class in two of three cases.

    Args:
        number: The number of the text.
        label: The class.
        words: The number of words.
    """
    generator = random.Random(number)
    own = WORDS[label % len(WORDS)] if generator.random() < 2 / 3 else generator.choice(WORDS)
    return " ".join((own, *generator.choices(WORDS, k=words - 1)))


def scaled(count: int, share: float, *, at_least: int) -> int:
    """Return a share of a number of samples.

    Args:
        count: The number of all.
        share: The share.
        at_least: The least number, if there are as many.
    """
    return min(max(round(count * share), at_least), count)
