"""Put a model folder in its place, so that a half-written one never loads.

A new folder is written beside its place and renamed. An existing one may be a mount point or the target of a symbolic
link, which cannot be renamed or removed: the new files are written inside it first and then moved, `config.json`, which
a model is opened by, last.
"""

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from nas.common.boundary import reading, reason_of
from nas.common.errors import ExportError
from nas.common.files import sync_directory
from nas.common.seals import SEALS
from nas.models.model_seals import CONFIG, DESCRIPTION, model_changes
from nas.run.shared_weights import copy_weights

UNFINISHED = ".unfinished-"
"""The beginning of the names of temporary folders in a model folder."""
_WEIGHTS = ".safetensors"


def write_model_folder(directory: Path, write: Callable[[Path], None]) -> None:
    """Write a model folder; an existing one is replaced when the new one is complete.

    Files of an existing folder are replaced or removed, but for hidden files and folders in it.

    Args:
        directory: The folder.
        write: Function that writes the files of the model, without folders, into an empty folder.

    Raises:
        ExportError: If the folder holds something else, or cannot be written; a complete old model is then untouched,
            unless the disk fails while files are moved.
    """
    place = Path(os.path.realpath(directory))  # a symbolic link to a folder is followed
    try:
        _check_place(directory, place)
        exists = place.is_dir()
        name = f"{UNFINISHED}{uuid.uuid4().hex}"
        temporary = place / name if exists else place.with_name(f".{place.name}.{uuid.uuid4().hex}")
        try:
            temporary.mkdir(parents=True)
            write(temporary)
            for path in temporary.iterdir():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            if exists:
                _move_into(place, temporary)
            else:
                temporary.rename(place)
                sync_directory(place.parent)
        finally:
            with contextlib.suppress(OSError):
                shutil.rmtree(temporary, ignore_errors=True)
    except (OSError, SafetensorError) as error:  # a full disk raises either
        raise ExportError(f"{directory}: the model cannot be written: {_reason(error)}") from error


def copy_model_folder(source: Path, target: Path, *, links: bool = False) -> None:
    """Copy an exported model, unless the target is an undamaged copy of it.

    Args:
        source: The folder of the model.
        target: The folder of the copy; replaced as `write_model_folder` does.
        links: Whether the weights of both are one file on disk, as within a run directory.

    Raises:
        ExportError: If it cannot be copied.
    """
    if _is_copy(source, target):
        return

    def write(folder: Path) -> None:
        for path in filter(Path.is_file, source.iterdir()):
            copy = copy_weights if links and path.suffix == _WEIGHTS else shutil.copyfile
            copy(path, folder / path.name)

    write_model_folder(target, write)


def _is_copy(source: Path, target: Path) -> bool:
    if not (target / SEALS).is_file() or not (target / CONFIG).is_file():
        return False
    try:
        return (source / SEALS).read_bytes() == (target / SEALS).read_bytes() and not model_changes(target)
    except (ExportError, OSError):
        return False


def _reason(error: OSError | SafetensorError) -> str:
    quoted = re.search(r'message: "([^"]+)"', str(error))  # of the system, in the error of the library
    return reason_of(error) if quoted is None else quoted[1].lower()


def _check_place(directory: Path, place: Path) -> None:
    """Check that the place is new, empty, or holds a model or what is left of one."""
    with reading(directory, expected="a path in UTF-8", error=ExportError, problem="cannot be used"):
        str(place).encode()  # the library for tokenizers opens no other
    if os.path.lexists(place) and not place.is_dir():
        raise ExportError(f"{directory}: is a file; expected the name of a folder")
    if not place.is_dir():
        return
    names = set(os.listdir(place)) - {"lost+found"}  # which a new file system has
    is_ours = not names.isdisjoint((DESCRIPTION, SEALS)) or any(name.startswith(UNFINISHED) for name in names)
    if names and not is_ours:
        raise ExportError(f"{directory}: is not empty and holds no exported model; expected an empty or new folder")


def _move_into(place: Path, temporary: Path) -> None:
    """Replace the files of a folder; from the first change to the last, it has no `config.json` and does not load."""
    new = {path.name for path in temporary.iterdir()}
    (place / CONFIG).unlink(missing_ok=True)
    sync_directory(place)
    for path in list(place.iterdir()):
        if path.is_dir() and not path.is_symlink():
            if path.name.startswith(UNFINISHED) and path != temporary:  # left by a killed export
                shutil.rmtree(path, ignore_errors=True)
        elif path.name not in new and not path.name.startswith("."):
            path.unlink()
    for name in sorted(new, key=lambda name: (name == CONFIG, name)):
        if name == CONFIG:
            sync_directory(place)
        os.replace(temporary / name, place / name)
    sync_directory(place)
