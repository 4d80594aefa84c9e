"""Checksums of the files of a folder."""

import json
import os
import shutil
from pathlib import Path

import pytest

from nas.common.errors import NasError, StudyError
from nas.common.seals import SEALS, Changes, changed_files, seal, write_sealed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of three sealed files, one of them empty and one in a folder of its own."""
    folder = tmp_path / "sealed"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "weights").write_bytes(os.urandom(100_000))
    (folder / "config.json").write_text("{}")
    (folder / "empty").touch()
    seal(folder, ["deep/weights", "config.json", "empty", "absent"])
    return folder


def test_sealed_folder_has_no_changes_where_it_is_and_where_it_is_moved_to(folder: Path, tmp_path: Path) -> None:
    assert changed_files(folder) == Changes()
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    assert not changed_files(tmp_path / "copy", counts=lambda name: True)


def test_changed_missing_and_added_files_are_named(folder: Path) -> None:
    content = bytearray((folder / "deep" / "weights").read_bytes())
    content[50_000] ^= 1
    (folder / "deep" / "weights").write_bytes(content)
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    (folder / "tokenizer.json").touch()
    (folder / "notes.md").touch()
    changes = changed_files(folder, counts=lambda name: name.endswith(".json"))
    assert changes == Changes(("deep/weights",), ("config.json",), ("tokenizer.json",))
    assert str(changes) == "deep/weights changed; config.json missing; tokenizer.json added"


def test_folder_without_seals_has_no_changes(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert not changed_files(tmp_path, counts=lambda name: True)


def test_sealing_some_files_keeps_the_seals_of_others(folder: Path) -> None:
    (folder / "config.json").write_text("[]")
    (folder / "empty").write_text("full")
    seal(folder, ["empty"], keeps_others=True)
    assert changed_files(folder) == Changes(("config.json",))


def test_write_that_is_killed_at_any_moment_leaves_no_change(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    replace = Path.replace

    def look_before(path: Path, target: Path) -> Path:
        seen.append(changed_files(folder))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", look_before)
    for content in (b"one", b"two", b"three"):
        write_sealed(folder, "config.json", content)
    assert seen == [Changes()] * 6 and not changed_files(folder)
    assert (folder / "config.json").read_bytes() == b"three"
    (folder / "config.json").write_bytes(b"one")
    assert changed_files(folder) == Changes(("config.json",))


@pytest.mark.parametrize(
    "content",
    ["", "[]", "5", '{"format": 2, "files": {}}', '{"format": 1}', '{"format": 1, "files": []}']
    + [json.dumps({"format": 1, "files": {name: {"sha256": "0", "size": 1}}}) for name in ("/dev/zero", "../x", "")]
    + [json.dumps({"format": 1, "files": {"a": entry}}) for entry in (5, {}, {"sha256": 1, "size": 2})],
)
def test_damaged_seals_are_one_error_of_the_requested_type(content: str, folder: Path) -> None:
    (folder / SEALS).write_text(content)
    with pytest.raises(
        StudyError, match=rf"{SEALS}: (is damaged|is not valid JSON|cannot be read): .*; expected check"
    ):
        changed_files(folder, error=StudyError)


def test_named_pipe_in_place_of_a_file_does_not_block(folder: Path) -> None:
    (folder / "empty").unlink()
    os.mkfifo(folder / "empty")
    assert changed_files(folder) == Changes(missing=("empty",))
    (folder / SEALS).unlink()
    os.mkfifo(folder / SEALS)
    with pytest.raises(NasError, match="a named pipe"):
        changed_files(folder)
