import os
import shutil
from pathlib import Path

import pytest

from nas.data.digests import image_digests
from nas.data.images import ImageSource, open_images

NAMES = ["a.png", "b/c.png", "none.png"]
LONG_AGO = (10**9, 10**9)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "b").mkdir(parents=True)
    for name in NAMES[:2]:
        (folder / name).write_text(name)
        os.utime(folder / name, LONG_AGO)
    return folder


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the images that are hashed."""
    names: list[str] = []
    original = ImageSource.digest

    def digest(self: ImageSource, name: str) -> str | None:
        names.append(name)
        return original(self, name)

    monkeypatch.setattr(ImageSource, "digest", digest)
    return names


def test_images_are_hashed_once_until_size_or_time_differs(folder: Path, tmp_path: Path, hashed: list[str]) -> None:
    images, cache = open_images(folder), tmp_path / "cache"
    first = image_digests(images, NAMES, cache)
    assert sorted(hashed) == NAMES[:2] and first["none.png"] is None
    hashed.clear()
    assert image_digests(images, NAMES, cache) == first and not hashed
    os.utime(folder / "a.png", (10**9 + 1, 10**9 + 1))
    assert image_digests(images, NAMES, cache) == first and hashed == ["a.png"], "touched, but the same"
    (folder / "a.png").write_text("A.png")
    os.utime(folder / "a.png", (10**9 + 1, 10**9 + 1))
    assert image_digests(images, NAMES, cache) == first, "size and time are kept"
    found = image_digests(images, NAMES, cache, verify=True)
    assert found["a.png"] != first["a.png"] and found["b/c.png"] == first["b/c.png"]
    assert image_digests(images, NAMES, cache) == found


def test_file_that_was_written_just_now_is_hashed_again(folder: Path, tmp_path: Path, hashed: list[str]) -> None:
    (folder / "a.png").write_text("new")
    for _ in range(2):
        image_digests(open_images(folder), NAMES, tmp_path)
    assert sorted(hashed) == ["a.png", "a.png", "b/c.png"]


def test_other_names_of_the_same_folder_stay_in_the_index(folder: Path, tmp_path: Path, hashed: list[str]) -> None:
    images = open_images(folder)
    for name in NAMES[:2]:
        image_digests(images, [name], tmp_path)
    assert hashed == NAMES[:2]
    image_digests(images, NAMES, tmp_path)
    assert hashed == NAMES[:2]


def test_archive_has_the_digests_of_the_folder(folder: Path, tmp_path: Path, hashed: list[str]) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "images"), "zip", folder))
    images = open_images(archive)
    assert image_digests(images, NAMES, tmp_path) == image_digests(open_images(folder), NAMES, None)
    hashed.clear()
    archive.touch()
    image_digests(images, NAMES, tmp_path)
    assert not hashed, "the checksums of its entries are unchanged"


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"format": 2}\n{"a.png": 3}', '{"format": 2}\n["a.png", "4', '{"format": 9}']
)
def test_damaged_index_only_costs_time(folder: Path, tmp_path: Path, hashed: list[str], content: str) -> None:
    first = image_digests(open_images(folder), NAMES, tmp_path)
    hashed.clear()
    (path,) = (tmp_path / "contents").iterdir()
    path.write_text(content)
    assert image_digests(open_images(folder), NAMES, tmp_path) == first and sorted(hashed) == NAMES[:2]
    (tmp_path / "file").touch()
    assert image_digests(open_images(folder), NAMES, tmp_path / "file") == first
