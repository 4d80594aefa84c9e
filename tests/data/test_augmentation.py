import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nas.data.augmentation import AREA_FRACTIONS, ASPECT_RATIOS, augment


def noise_image(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_view_0_is_the_image_itself() -> None:
    image = noise_image(30, 20)
    assert augment(image, "a.png", 0) is image


def test_view_depends_only_on_the_image_and_its_index() -> None:
    image = noise_image(60, 40)
    views = [augment(image, name, view) for name in ("a.png", "b.png") for view in (1, 2, 3)]
    again = [augment(image, name, view) for name in ("a.png", "b.png") for view in (1, 2, 3)]
    assert [view.tobytes() for view in views] == [view.tobytes() for view in again]
    assert len({view.tobytes() for view in views}) == 6


@given(width=st.integers(1, 90), height=st.integers(1, 90), view=st.integers(1, 50))
def test_view_has_the_documented_area_and_aspect_ratio(width: int, height: int, view: int) -> None:
    crop = augment(noise_image(width, height), "image", view)
    assert 1 <= crop.width <= width and 1 <= crop.height <= height
    # Rounding changes each side by up to half a pixel.
    assert (crop.width + 1) * (crop.height + 1) >= AREA_FRACTIONS[0] * width * height * 0.99
    ratio = (crop.width / width) / (crop.height / height)
    slack = (1 + 0.5 / crop.width) * (1 + 0.5 / crop.height) * 1.2
    assert ASPECT_RATIOS[0] / slack <= ratio <= ASPECT_RATIOS[1] * slack


def test_about_half_of_the_views_are_flipped() -> None:
    ramp = Image.fromarray(np.tile(np.arange(64, dtype=np.uint8)[None, :, None], (64, 1, 3)))
    crops = [np.asarray(augment(ramp, "ramp", view)).astype(int) for view in range(1, 201)]
    assert sum(crop[0, 0, 0] > crop[0, -1, 0] for crop in crops) == pytest.approx(100, abs=30)
