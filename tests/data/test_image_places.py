"""The place that is probably meant where images are missing."""

import zipfile
from pathlib import Path

import pytest
from PIL import Image

from nas.data.image_places import place_hint


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (4, 4)).save(folder / name)
    return folder


def test_folder_that_paths_repeat_is_recognized(photos: Path) -> None:
    assert (
        place_hint(photos, ["photos/a.png", "photos/b.png"]) == f"; they are in {photos.parent}: set data.images to it"
    )


def test_folder_below_and_archive_next_to_the_named_one_are_found(photos: Path) -> None:
    assert place_hint(photos.parent, ["a.png"]) == f"; they are in {photos}: set data.images to it"
    with zipfile.ZipFile(photos.parent / "pictures.zip", "w") as archive:
        archive.write(photos / "a.png", "c.png")
    assert "pictures.zip" in place_hint(photos, ["c.png"])


def test_nothing_is_proposed_where_no_place_has_all_or_the_named_one_has_some(photos: Path) -> None:
    assert place_hint(photos, ["c.png"]) == ""
    assert place_hint(photos, ["a.png", "photos/b.png"]) == ""
