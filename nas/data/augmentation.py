"""Augmented views of training images, made before the encoder's own processor sees them.

A view is a random resized crop (Szegedy et al., CVPR 2015) and a horizontal flip. The crop is left at its own size: the
processor resizes it, so that pixels are resampled once. View 0 is the image itself.
"""

import hashlib
import math

import numpy as np
from PIL import Image

AREA_SHARES = (0.5, 1.0)
"""Part of the image's area that a crop keeps, uniform in between. Milder than the usual 8 %: a text goes with the
image, and speaks of what a small crop would leave out."""
ASPECT_RATIOS = (3 / 4, 4 / 3)
"""Width to height of a crop, relative to the image's own; uniform in the logarithm."""
FLIP_PROBABILITY = 0.5

PARAMETERS = f"{AREA_SHARES} {ASPECT_RATIOS} {FLIP_PROBABILITY}"


def augmented(image: Image.Image, name: str, view: int) -> Image.Image:
    """A view of an image; the same for the same name, view and size of the image, wherever and whenever it is made.

    Args:
        image: RGB.
        name: Of the image, as the manifest has it.
        view: 0 returns the image itself.
    """
    if view == 0:
        return image
    seed = int.from_bytes(hashlib.sha256(f"{name}\0{view}".encode()).digest()[:8], "big")
    generator = np.random.default_rng(seed)
    area = generator.uniform(*AREA_SHARES)
    ratio = math.exp(generator.uniform(math.log(ASPECT_RATIOS[0]), math.log(ASPECT_RATIOS[1])))
    # A ratio that the area does not allow is clipped at the image's border, as far as it goes.
    width = max(round(image.width * min(math.sqrt(area * ratio), 1)), 1)
    height = max(round(image.height * min(math.sqrt(area / ratio), 1)), 1)
    left = int(generator.integers(image.width - width, endpoint=True))
    top = int(generator.integers(image.height - height, endpoint=True))
    crop = image.crop((left, top, left + width, top + height))
    if generator.random() < FLIP_PROBABILITY:
        return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return crop
