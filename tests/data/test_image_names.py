"""Images are found although other systems spell their names differently; a name that is wrong gets a hint."""

import unicodedata
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from nas.common.errors import DataError
from nas.data.images import ImageSource, open_images

COMPOSED = unicodedata.normalize("NFC", "Cafés/crème_é.png")
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)


def source(root: Path, archived: bool, *names: str) -> ImageSource:
    Image.new("RGB", (4, 4), (9, 0, 0)).save(root / "picture.png")
    content = (root / "picture.png").read_bytes()
    if archived:
        with zipfile.ZipFile(root / "images.zip", "w") as archive:
            for name in names:
                archive.writestr(name, content)
        return open_images(root / "images.zip")
    for name in names:
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return open_images(root / "images")


@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize(
    ("stored", "asked"),
    [
        ("a/1.png", "a\\1.png"),
        ("a\\1.png", "a/1.png"),
        ("a\\1.png", "a\\1.png"),
        (COMPOSED, DECOMPOSED),
        (DECOMPOSED, COMPOSED),
        (DECOMPOSED, COMPOSED.replace("/", "\\")),
        ("a/1.png", "./a//1.png"),
    ],
)
def test_other_spelling_of_a_name_is_found(tmp_path: Path, archived: bool, stored: str, asked: str) -> None:
    images = source(tmp_path, archived, stored)
    assert images.open(asked).getpixel((0, 0)) == (9, 0, 0)
    assert images.read_error(asked) is None and images.size(asked) == images.size(stored)
    assert images.fingerprint(asked) == images.fingerprint(stored) is not None
    assert images.digest(asked) is not None


@pytest.mark.parametrize("archived", [False, True])
def test_name_is_looked_up_as_it_is_first(tmp_path: Path, archived: bool) -> None:
    images = source(tmp_path, archived, COMPOSED, DECOMPOSED, "a/1.png", "a\\1.png")
    assert {images.own_name(name) for name in (COMPOSED, DECOMPOSED)} == {COMPOSED, DECOMPOSED}
    assert {images.own_name(name) for name in ("a/1.png", "a\\1.png")} == {"a/1.png", "a\\1.png"}


def test_utf8_name_in_an_archive_that_does_not_say_so_is_found(tmp_path: Path) -> None:
    """As the archiver of macOS writes names."""
    images = source(tmp_path, True, "cafXX.png")
    archive = tmp_path / "images.zip"
    archive.write_bytes(archive.read_bytes().replace(b"cafXX.png", "café.png".encode()))
    images = open_images(archive)
    assert images.open("café.png").size == (4, 4)


@pytest.mark.parametrize(
    ("archived", "asked", "hint"),
    [
        (False, "a/1.PNG", r"the folder has '1\.png'"),
        (True, "a/1.PNG", r"the archive has 'a/1\.png'"),
        (False, "images/a/1.png", r"the folder has 'a/1\.png'; set data\.images to the folder above"),
        (True, "images/a/1.png", r"the archive has 'a/1\.png'"),
        (True, "1.png", r"the archive has 'a/1\.png'"),
        (False, "b/1.png", "there is no folder 'b'"),
        (False, "/nowhere/1.png", "the name is an absolute path; write paths relative to data.images"),
        (True, "C:\\data\\1.png", "the name has a drive letter; write paths relative to data.images"),
        (False, "../a/2.png", "the name leads out of data.images"),
    ],
)
def test_missing_image_gets_a_hint(tmp_path: Path, archived: bool, asked: str, hint: str) -> None:
    images = source(tmp_path, archived, "a/1.png")
    with pytest.raises(DataError, match=f"is missing; expected a path relative to data.images; {hint}"):
        images.open(asked)
    assert images.read_error(asked) is not None
    assert images.fingerprint(asked) is None and images.size(asked) is None and images.digest(asked) is None


def test_missing_image_without_anything_near_has_no_hint(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"image 'x\.png': is missing; expected a path relative to data\.images$"):
        source(tmp_path, False, "1.png").open("x.png")
