"""Model folders at their places: new, existing, mounted, linked, full, read-only, interrupted."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nas.common.errors import ExportError
from nas.run.model_folder import write_model_folder

OLD, NEW = "old", "new"


def writer(content: str, *names: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for name in names or ("config.json", "architecture.yaml", "model.safetensors"):
            (folder / name).write_text(content)

    return write


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def model(content: str) -> dict[str, str]:
    return dict.fromkeys(("config.json", "architecture.yaml", "model.safetensors"), content)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    write_model_folder(tmp_path / "model", writer(OLD))
    return tmp_path / "model"


def busy(*_: object, **__: object) -> None:
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def test_new_folder_appears_whole_with_its_parents(tmp_path: Path) -> None:
    write_model_folder(tmp_path / "a" / "b", writer(NEW))
    assert contents(tmp_path / "a" / "b") == model(NEW)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_mount_point_is_written_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "volume" / "lost+found").mkdir(parents=True)
    with monkeypatch.context() as patched:
        for module, name in ((os, "rename"), (os, "rmdir"), (shutil, "rmtree"), (Path, "rename")):
            patched.setattr(module, name, busy)
        write_model_folder(tmp_path / "volume", writer(NEW))
    assert (
        model(NEW).items()
        <= {path.name: path.read_text() for path in (tmp_path / "volume").iterdir() if path.is_file()}.items()
    )


def test_target_of_a_symbolic_link_is_written_into(old: Path, tmp_path: Path) -> None:
    for target in (old, tmp_path / "fresh"):
        link = tmp_path / f"link to {target.name}"
        link.symlink_to(target)
        write_model_folder(link, writer(NEW))
        assert link.is_symlink() and contents(target) == model(NEW)


def test_old_files_go_and_hidden_ones_and_folders_stay(old: Path) -> None:
    (old / "model-00001-of-00002.safetensors").write_text(OLD)
    (old / ".gitattributes").write_text(OLD)
    (old / ".git").mkdir()
    write_model_folder(old, writer(NEW))
    assert {path.name for path in old.iterdir()} == {*model(NEW), ".gitattributes", ".git"}


@pytest.mark.parametrize("place", range(1, 5))
def test_export_killed_at_any_step_leaves_a_model_that_is_complete_or_refused(
    place: int, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    calls = 0
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == place:
            raise Killed
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", replace)
        patched.setattr(shutil, "rmtree", lambda *_, **__: None)  # a killed program does not tidy up
        if place <= 3:
            with pytest.raises(Killed):
                write_model_folder(old, writer(NEW))
        else:
            write_model_folder(old, writer(NEW))
    loads = (old / "config.json").exists()
    assert loads == (place > 3)
    write_model_folder(old, writer(NEW))
    assert contents(old) == model(NEW), "the next export tidies up"


def test_old_model_is_untouched_if_the_new_one_cannot_be_written(old: Path, tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        writer(NEW)(folder)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for folder in (old, tmp_path / "fresh"):
        with pytest.raises(ExportError, match=f"{folder}: the model cannot be written: no space left on device"):
            write_model_folder(folder, fail)
    assert contents(old) == model(OLD) and not (tmp_path / "fresh").exists()


def test_file_other_folder_and_path_that_is_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, problem in (
        ("file", "is a file"),
        ("link", "is a file"),
        ("loop", "is a file"),
        ("file/below", "the model cannot be written: not a directory"),
        ("mine", "is not empty and holds no exported model"),
        ("\udcff", "cannot be used: character"),
    ):
        with pytest.raises(ExportError, match=problem):
            write_model_folder(tmp_path / name, writer(NEW))
    assert contents(tmp_path / "mine") == {"thesis.txt": "years of work"}


_IN_A_VOLUME = """
set -e
mount -t tmpfs -o size=64k tmpfs "$2"
"$1" -c "$3" "$2"
ls "$2"
"$1" -c "$4" "$2" || true
cat "$2/config.json"
mount -o remount,ro "$2"
"$1" -c "$3" "$2" || true
"""
_WRITE = """
import sys
from pathlib import Path
from nas.common.errors import ExportError
from nas.run.model_folder import write_model_folder
def write(folder):
    (folder / "model.safetensors").write_text("{content}" * {count})
    for name in ("architecture.yaml", "config.json"):
        (folder / name).write_text("{content}")
try:
    write_model_folder(Path(sys.argv[1]), write)
except ExportError as error:
    print(error)
"""


_MOUNT = "unshare -rm mount -t tmpfs none /mnt"
_MOUNTS = subprocess.run(_MOUNT, shell=True, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.skipif(_MOUNTS.returncode != 0, reason=f"no volume can be mounted here: {_MOUNTS.stderr.strip()}")
def test_real_volume_is_written_into_and_may_be_full_or_read_only(tmp_path: Path) -> None:
    place = tmp_path / "volume"
    place.mkdir()
    small, large = _WRITE.format(content="a", count=1), _WRITE.format(content="b", count=100_000)
    done = subprocess.run(
        ["unshare", "-rm", "bash", "-c", _IN_A_VOLUME, "bash", sys.executable, str(place), small, large],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split("\n") == [
        *("architecture.yaml", "config.json", "model.safetensors"),
        f"{place}: the model cannot be written: no space left on device",
        f"a{place}: the model cannot be written: read-only file system",
        "",
    ]
