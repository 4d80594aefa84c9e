import gc
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nas.common.errors import DataError
from nas.data.archive import Archive, open_archive
from nas.data.image_names import FolderNames
from nas.data.images import open_images


@pytest.fixture(params=["folder", "zip"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(folder / "clear.png")
    Image.new("L", (4, 4), 7).save(folder / "grey.png")
    Image.new("I;16", (4, 4), 40_000).save(folder / "deep.png")
    Image.new("CMYK", (4, 4), (0, 0, 0, 255)).save(folder / "print.jpg")
    (folder / "broken.png").write_bytes(b"not an image")
    return folder if request.param == "folder" else zipped(folder)


def zipped(folder: Path) -> Path:
    archive = folder.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as file:
        for path in folder.iterdir():
            file.write(path, path.name)
    return archive


def test_every_mode_opens_as_rgb_with_transparency_on_white(location: Path) -> None:
    images = open_images(location)
    assert images.open("clear.png").getpixel((0, 0)) == (255, 255, 255)
    assert images.open("grey.png").getpixel((0, 0)) == (7, 7, 7)
    assert np.asarray(images.open("print.jpg"))[0, 0].max() < 3, "full key ink is black"


def test_16_bit_image_keeps_its_brightness(location: Path) -> None:
    value = np.asarray(open_images(location).open("deep.png"))[0, 0, 0]
    assert value == pytest.approx(40_000 / 65_535 * 255, abs=1)


def test_16_bit_image_with_a_transparent_grey_keeps_its_brightness(tmp_path: Path) -> None:
    values = np.array([[40_000, 500], [1_000, 40_000]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "clear.png", transparency=500)
    image = open_images(tmp_path).open("clear.png")
    assert np.asarray(image)[..., 0].tolist() == [[155, 255], [3, 155]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    """The tag names the sides of the image at which rows and columns of the file begin (TIFF 6.0, page 36)."""
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    filed = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: upright.T[::-1],
        7: upright.T[::-1, ::-1],
        8: upright.T[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(filed)).save(tmp_path / "turned.png", exif=exif)
    assert np.asarray(open_images(tmp_path).open("turned.png"))[..., 0].tolist() == upright.tolist()


def test_palette_image_keeps_its_colours_with_transparency_on_white(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([200, 0, 0, 0, 100, 0])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "palette.png")
    palette.save(tmp_path / "one.gif", transparency=1)
    palette.save(tmp_path / "each.png", transparency=bytes([255, 0]))
    Image.new("LA", (2, 1), (100, 0)).save(tmp_path / "grey.png")
    images = open_images(tmp_path)
    pixels = {name: np.asarray(images.open(name))[0].tolist() for name in ("palette.png", "one.gif", "each.png")}
    assert pixels["palette.png"] == [[200, 0, 0], [0, 100, 0]]
    assert pixels["one.gif"] == pixels["each.png"] == [[200, 0, 0], [255, 255, 255]]
    assert images.open("grey.png").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[0.0, 1.0]], dtype=np.float32), "floating-point pixel values of unknown scale"),
        (np.array([[0, 70_000]], dtype=np.int32), "pixel values out of range; expected 0 to 65535, got 0 to 70000"),
        (np.array([[-1, 5]], dtype=np.int32), "pixel values out of range; expected 0 to 65535, got -1 to 5"),
    ],
)
def test_pixel_values_of_unknown_scale_are_rejected(tmp_path: Path, values: np.ndarray[Any, Any], message: str) -> None:
    Image.fromarray(values).save(tmp_path / "numbers.tif")
    with pytest.raises(DataError, match=message):
        open_images(tmp_path).open("numbers.tif")
    Image.fromarray(np.array([[0, 65_535]], dtype=np.int32)).save(tmp_path / "grey.tif")
    assert np.asarray(open_images(tmp_path).open("grey.tif"))[0, :, 0].tolist() == [0, 255]


def test_image_in_an_archive_of_the_folder_is_read_like_a_file(location: Path) -> None:
    inside = zipped(location) if location.is_dir() else location
    inside.rename(location.parent / "part-1.zip")
    images, alone = open_images(location.parent), open_images(location.parent / "part-1.zip")
    assert images.open("part-1.zip/grey.png").getpixel((0, 0)) == (7, 7, 7)
    assert images.own_name("part-1.zip/./grey.png") == "part-1.zip/grey.png"
    for read in ("fingerprint", "size", "digest", "modified_ns"):
        assert getattr(images, read)("part-1.zip/grey.png") == getattr(alone, read)("grey.png")
    names = ["part-1.zip/grey.png", "part-1.zip/broken.png", "part-1.zip/none.png", "part-2.zip/grey.png"]
    assert images.find_unreadable(names) == names[1:]
    with pytest.raises(DataError, match=r"image 'part-1\.zip/broken\.png': is not an image"):
        images.open("part-1.zip/broken.png")


def test_folder_with_the_name_of_an_archive_stays_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.zip").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "a.zip" / "b.png")
    assert open_images(tmp_path).open("a.zip/b.png").size == (4, 4)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archive_with_a_name_twice_is_read_where_both_are_the_same(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for name, data in (("same.png", content), ("same.png", content), ("other.png", content), ("other.png", b"no")):
            archive.writestr(name, data)
    images = open_images(tmp_path / "images.zip")
    assert images.open("same.png").size == (4, 4)
    with pytest.raises(DataError, match=r"image 'other\.png': the archive has several files of this name"):
        images.open("other.png")


def test_archive_is_indexed_once_for_all_that_open_it_until_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", b"a")
    first = open_archive(path)
    assert open_archive(path) is first
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("b.png", b"b")
    assert open_archive(path) is not first and open_archive(path).find("b.png") == "b.png"


def test_index_of_an_archive_is_compact(tmp_path: Path) -> None:
    count = 3_000
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for number in range(count):
            archive.writestr(f"{number:08}.png", b"")
    open_images(tmp_path / "images.zip")  # imports are not part of the index
    tracemalloc.start()
    images = open_images(tmp_path / "images.zip")
    gc.collect()  # otherwise freed tuples, which Python keeps for reuse, count as well
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert images.size("00002999.png") == 0
    assert held < 150 * count


def test_missing_images_are_found_without_a_search_for_what_could_be_meant(
    location: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each such search looks at all names; where all names are wrong, the time would be quadratic in their number."""
    for place in (Archive, FolderNames):
        monkeypatch.setattr(place, "hint", lambda self, name: pytest.fail("searched"))
    assert open_images(location).find_unreadable(["grey.png", "none.png"]) == ["none.png"]


def test_path_with_a_null_byte_does_not_exist(location: Path) -> None:
    images = open_images(location)
    assert images.fingerprint("a\0.png") is None and images.size("a\0.png") is None
    assert images.find_unreadable(["a\0.png"]) == ["a\0.png"]


def test_image_with_truncated_exif_is_unreadable_and_named(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "whole.jpg", dpi=(72, 72))
    whole = (tmp_path / "whole.jpg").read_bytes()
    cut = b"Exif\0\0II*\0"
    at = 4 + int.from_bytes(whole[4:6])  # after the JFIF segment
    (tmp_path / "cut.jpg").write_bytes(whole[:at] + b"\xff\xe1" + (len(cut) + 2).to_bytes(2) + cut + whole[at:])
    images = open_images(tmp_path)
    assert images.find_unreadable(["whole.jpg", "cut.jpg"]) == ["cut.jpg"]
    with pytest.raises(DataError, match=r"image 'cut\.jpg': cannot be read: .*unpack requires"):
        images.open("cut.jpg")


def test_missing_and_damaged_images_are_found_and_named(location: Path) -> None:
    images = open_images(location)
    assert images.find_unreadable(["grey.png", "broken.png", "none.png"]) == ["broken.png", "none.png"]
    with pytest.raises(
        DataError, match=r"image 'broken.png': is not an image; expected a file in a format that Pillow"
    ):
        images.open("broken.png")
    assert images.fingerprint("none.png") is None
    assert images.fingerprint("grey.png") != images.fingerprint("clear.png")


@pytest.mark.parametrize("progressive", [False, True])
def test_truncated_jpeg_is_unreadable(tmp_path: Path, progressive: bool) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.jpg", progressive=progressive)
    whole = (tmp_path / "whole.jpg").read_bytes()
    for share in (0.3, 0.9):
        (tmp_path / f"{share}.jpg").write_bytes(whole[: int(share * len(whole))])
    images = open_images(tmp_path)
    assert images.find_unreadable(["whole.jpg", "0.3.jpg", "0.9.jpg"]) == ["0.3.jpg", "0.9.jpg"]
    assert images.open("whole.jpg").size == (80, 64)


def test_location_without_images_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a folder or a ZIP file"):
        open_images(tmp_path / "none")
    (tmp_path / "bad.zip").write_text("not an archive")
    with pytest.raises(DataError, match="expected a ZIP file of images"):
        open_images(tmp_path / "bad.zip")


@pytest.mark.parametrize("start", [b"RIFF\0\0\0\0WEBP", b"\0\0\0\x20ftypavif"])
def test_file_that_pillow_reads_as_a_whole_is_bounded(start: bytes, tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.write(start)
        file.truncate(2**27 + 1)  # takes no space on disk
    with pytest.raises(DataError, match=r"'large': is too large; expected at most 128.00 MiB for WebP and AVIF"):
        open_images(tmp_path).open("large")
