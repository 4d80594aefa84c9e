"""Augment training images before the image processor of the encoder is applied.

A view is a random crop (Szegedy et al., CVPR 2015), possibly flipped horizontally. The crop keeps its own size: the
processor resizes it, so that pixels are resampled only once. View 0 is the image itself.
"""

import hashlib
import math

import numpy as np
from PIL import Image

AREA_FRACTIONS = (0.5, 1.0)
"""Range of the fraction of the image area that a crop keeps; uniform. Milder than the usual minimum of 8 %, since the
text of a sample may describe what a small crop would lose."""
ASPECT_RATIOS = (3 / 4, 4 / 3)
"""Range of the aspect ratio of a crop, relative to that of the image; uniform in the logarithm."""
FLIP_PROBABILITY = 0.5

PARAMETERS = f"{AREA_FRACTIONS} {ASPECT_RATIOS} {FLIP_PROBABILITY}"


def augment(image: Image.Image, name: str, view: int) -> Image.Image:
    """Return a view of an image; it depends only on the name and the size of the image and the index of the view.

    Args:
        image: The image, RGB.
        name: Path of the image within its source; seeds the draws.
        view: Index of the view; 0 returns the image itself.
    """
    if view == 0:
        return image
    seed = int.from_bytes(hashlib.sha256(f"{name}\0{view}".encode()).digest()[:8], "big")
    generator = np.random.default_rng(seed)
    area = generator.uniform(*AREA_FRACTIONS)
    ratio = math.exp(generator.uniform(math.log(ASPECT_RATIOS[0]), math.log(ASPECT_RATIOS[1])))
    # An aspect ratio that does not fit at this area is clipped at the border of the image.
    width = max(round(image.width * min(math.sqrt(area * ratio), 1)), 1)
    height = max(round(image.height * min(math.sqrt(area / ratio), 1)), 1)
    left = int(generator.integers(image.width - width, endpoint=True))
    top = int(generator.integers(image.height - height, endpoint=True))
    crop = image.crop((left, top, left + width, top + height))
    if generator.random() < FLIP_PROBABILITY:
        return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return crop
