from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nas.data.digests import image_digests
from nas.data.image_check import check_images
from nas.data.images import open_images
from nas.data.samples import shortened_list


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(3):
        Image.new("RGB", (4, 4), (index, 0, 0)).save(folder / f"{index}.png")
    return folder


def test_images_are_decoded_once_until_one_changes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "x.png").write_bytes(b"not an image")
    images = open_images(folder)
    names: list[str] = [*(f"{index}.png" for index in range(3)), "x.png"]
    decoded: list[str] = []
    original = images.read_error

    def decode_and_record(name: str) -> str | None:
        decoded.append(name)
        return original(name)

    monkeypatch.setattr(images, "read_error", decode_and_record)

    def find() -> list[str]:
        decoded.clear()
        return check_images(
            images, image_digests(images, names, None), tmp_path / "cache", lambda done, total: None
        ).unreadable

    assert find() == ["x.png"] and sorted(decoded) == names
    assert find() == ["x.png"] and decoded == ["x.png"], "the cause may have disappeared"
    with monkeypatch.context() as patched:  # as if the permissions of the file had changed
        patched.setattr(images, "read_error", lambda name: None)
        assert find() == []
    assert find() == ["x.png"]
    (folder / "1.png").write_bytes(b"not an image")
    assert find() == ["1.png", "x.png"] and decoded
    next((tmp_path / "cache" / "images").iterdir()).write_text("damaged")
    for path in (tmp_path / "cache" / "images").iterdir():
        path.write_text("damaged")
    assert find() == ["1.png", "x.png"] and decoded


def test_unwritable_cache_only_costs_time(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    seen: list[Any] = []
    found = check_images(
        open_images(folder),
        {"0.png": "a", "1.png": "b"},
        tmp_path / "file",
        lambda done, total: seen.append((done, total)),
    )
    assert found.unreadable == [] and seen == [(2, 2)]


def test_long_names_are_shortened_in_messages() -> None:
    assert shortened_list(["a", "b" * 10_000]).startswith("a, bbb")
    assert len(shortened_list(["x" * 10_000] * 9)) < 1_100
