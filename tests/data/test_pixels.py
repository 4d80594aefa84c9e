"""Pictures of every depth and mode are read with their brightness, or refused."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from nas.common.errors import DataError
from nas.data.image_check import image_notes
from nas.data.images import open_images


def png(path: Path, values: np.ndarray[Any, Any], colour: int, *, significant: bytes = b"") -> None:
    """Write a PNG of 16 bits by hand, since Pillow writes grey ones only."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *([chunk(b"sBIT", significant)] if significant else [])]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")])
    )


def first_row(folder: Path, name: str) -> list[int]:
    image = np.asarray(open_images(folder).open(name))
    row: list[int] = image[0, :, 0].tolist()
    return row


RAMP = np.array([[0, 1, 128, 255]])


@pytest.mark.parametrize(
    ("bits", "dtype"), [(8, np.int32), (8, np.uint16), (12, np.uint16), (12, np.int32), (10, np.uint16)]
)
def test_fewer_bits_than_the_container_holds_are_scaled_and_noted(tmp_path: Path, bits: int, dtype: Any) -> None:
    values = RAMP * (2**bits - 1) // 255
    for name in ("deep.tif", *(["deep.png"] if dtype == np.uint16 else [])):
        Image.fromarray(values.astype(dtype)).save(tmp_path / name)
        images = open_images(tmp_path)
        row = np.asarray(images.open(name))[0, :, 0]
        assert np.abs(row.astype(int) - RAMP[0]).max() <= 1 and row[-1] == 255
        (note,) = image_notes(images)
        assert f"1 images have grey or colour values of {bits} bits in " in note and note.endswith(f"range: {name}")


def test_declared_range_needs_no_note(tmp_path: Path) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[281] = 4095
    Image.fromarray(np.array([[0, 1000]], dtype=np.uint16)).save(tmp_path / "declared.tif", tiffinfo=tags)
    png(tmp_path / "declared.png", np.array([[0, 1001]]), 0, significant=bytes([12]))
    png(tmp_path / "on_top.png", np.array([[0, 1000 << 4, 2000 << 4, 100 << 4]]), 0, significant=bytes([12]))
    png(tmp_path / "dark_on_top.png", np.array([[0, 100 << 4]]), 0, significant=bytes([12]))
    (tmp_path / "declared.pgm").write_bytes(b"P5 2 1 4095\n" + np.array([0, 1000], dtype=">u2").tobytes())
    images = open_images(tmp_path)
    expected = {"declared.tif": 62, "declared.png": 62, "on_top.png": 62, "dark_on_top.png": 6, "declared.pgm": 62}
    for name, value in expected.items():
        assert np.asarray(images.open(name))[0, 1, 0] == value, name
    assert image_notes(images) == []


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (6, 4)])
def test_12_bits_in_16_bit_colours_are_scaled(tmp_path: Path, colour: int, channels: int) -> None:
    values = np.zeros((1, 4, channels), dtype=np.int64)
    values[..., :3] = (RAMP * 4095 // 255)[..., None]
    if channels == 4:
        values[..., 3] = 65_535
    png(tmp_path / "deep.png", values.reshape(1, -1, channels), colour)
    images = open_images(tmp_path)
    assert np.abs(np.asarray(images.open("deep.png"))[0, :, 0].astype(int) - RAMP[0]).max() <= 1
    assert "12 bits in 16" in image_notes(images)[0]
    png(tmp_path / "full.png", values * 16, colour)
    assert np.abs(np.asarray(images.open("full.png"))[0, :, 0].astype(int) - RAMP[0]).max() <= 1
    assert len(image_notes(images)) == 1


def test_12_bits_in_16_bit_grey_with_alpha_are_refused(tmp_path: Path) -> None:
    values = np.stack([RAMP * 16, np.full_like(RAMP, 65_535)], axis=-1)
    png(tmp_path / "deep.png", values, 4)
    with pytest.raises(DataError, match=r"deep\.png'.*scale is unknown; expected values up to 65535, or 8 bits"):
        open_images(tmp_path).open("deep.png")


def test_grey_tiff_in_which_0_is_white_is_inverted(tmp_path: Path) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[262] = 0
    Image.fromarray(np.array([[0, 65_535]], dtype=np.uint16)).save(tmp_path / "white.tif")
    content = (tmp_path / "white.tif").read_bytes()
    entry = struct.pack("<HHIHH", 262, 3, 1, 1, 0)
    assert content.count(entry) == 1
    (tmp_path / "white.tif").write_bytes(content.replace(entry, struct.pack("<HHIHH", 262, 3, 1, 0, 0)))
    assert first_row(tmp_path, "white.tif") == [255, 0]


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "PA", "RGBA", "CMYK", "YCbCr", "I;16", "I;16B", "I"])
def test_every_mode_is_readable_and_white_stays_white(tmp_path: Path, mode: str) -> None:
    source = Image.new("L", (3, 2), 255)
    if mode.startswith("I"):
        image = Image.fromarray(np.full((2, 3), 65_535, dtype=np.int32 if mode == "I" else np.uint16))
        image = image.convert(mode) if mode == "I;16B" else image
    else:
        image = source.convert("RGB").convert(mode) if mode in ("CMYK", "YCbCr", "RGBA") else source.convert(mode)
    image.save(tmp_path / "white.tif")
    assert set(np.asarray(open_images(tmp_path).open(next(tmp_path.iterdir()).name)).flatten().tolist()) == {255}


def test_first_of_several_frames_and_complete_transparency_are_noted(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    first.save(tmp_path / "moving.gif", save_all=True, append_images=[second])
    first.save(tmp_path / "pages.tif", save_all=True, append_images=[second])
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    images = open_images(tmp_path)
    assert images.find_unreadable(["moving.gif", "pages.tif", "clear.png"]) == []
    assert images.open("moving.gif").getpixel((0, 0)) == images.open("pages.tif").getpixel((0, 0)) == (255, 0, 0)
    assert image_notes(images) == [
        "1 images are completely transparent, and therefore white: clear.png",
        "2 images have several frames or pages, of which the first is used: moving.gif, pages.tif",
    ]
