"""Checksums of the files of a folder, which show that a file was damaged or changed outside this program.

They protect against accidents: a file that was edited, cut short, mixed up in a copy or lost. They do not protect
against an attacker, who can write the checksums as well.
"""

import hashlib
import json
import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from nas.common.boundary import check_regular_file, read_json, reading, shown
from nas.common.errors import NasError
from nas.common.files import write_atomically

SEALS = "checksums.json"
"""The name of the file with the checksums of the other files of its folder."""

_FORMAT = 1
_EXPECTED = "checksums as this program writes them"


@dataclass(frozen=True)
class Seal:
    """The content that a file had when it was written.

    Args:
        sha256: The SHA-256 of the content, in hexadecimal.
        size: The number of bytes.
        meaning: The SHA-256 of what matters in the content, for a file whose other bytes may change; None for others.
        replaced: The seal of the content that was replaced last, which a file has if the program was killed just before
            it was renamed; None for a new file.
    """

    sha256: str
    size: int
    meaning: str | None = None
    replaced: "Seal | None" = None


@dataclass(frozen=True)
class Changes:
    """The files of a folder that are not as they were sealed, by name, sorted; false if there are none.

    Args:
        changed: The files with another content.
        missing: The files that are gone or are no regular files.
        added: The files without a seal.
    """

    changed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    added: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.changed or self.missing or self.added)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all of them."""
        return (*self.changed, *self.missing, *self.added)

    def __str__(self) -> str:
        kinds = (("changed", self.changed), ("missing", self.missing), ("added", self.added))
        return "; ".join(f"{', '.join(names)} {kind}" for kind, names in kinds if names)


def _all_bytes(path: Path) -> bytes | None:
    del path
    return None


def seal(
    folder: Path,
    names: Iterable[str],
    *,
    keeps_others: bool = False,
    meaning: Callable[[Path], bytes | None] = _all_bytes,
) -> None:
    """Write the checksums of files as they are now, atomically.

    Args:
        folder: The folder.
        names: The files to seal, relative to the folder, with `/`; those that do not exist lose their seal.
        keeps_others: Whether the seals of all other files stay as they are.
        meaning: What matters in the content of a file, or None if all its bytes do.

    Raises:
        NasError: If the existing checksums are needed and damaged, or a file cannot be read.
        OSError: If the checksums cannot be written.
    """
    seals = dict(read_seals(folder) or {}) if keeps_others else {}
    for name in names:
        path = folder / name
        if path.is_file():
            seals[name] = Seal(digest_of(path), path.stat().st_size, _digest(meaning(path)))
        else:
            seals.pop(name, None)
    _write(folder, seals)


def write_sealed(folder: Path, name: str, content: bytes) -> None:
    """Replace a file and its seal; at every moment of it, the file has a content that its seal accepts.

    Args:
        folder: The folder.
        name: The file, relative to the folder, with `/`.
        content: The new content.

    Raises:
        NasError: If the existing checksums are damaged.
        OSError: If the disk is full or the folder is not writable; the old file is unchanged.
    """
    seals = dict(read_seals(folder) or {})
    path, digest = folder / name, hashlib.sha256(content).hexdigest()
    replaced = Seal(digest_of(path), path.stat().st_size) if path.is_file() else None
    seals[name] = Seal(digest, len(content), replaced=replaced)
    _write(folder, seals)
    write_atomically(path, content)


def read_seals(folder: Path, error: Callable[[str], NasError] = NasError) -> dict[str, Seal] | None:
    """Return the seals of a folder by the names of its files; None if it has none.

    Args:
        folder: The folder.
        error: The type of the error.

    Raises:
        NasError: If the file of the checksums is damaged.
    """
    path = folder / SEALS
    if not path.exists():
        return None
    values = read_json(path, expected=_EXPECTED, error=error)
    with reading(path, expected=_EXPECTED, error=error, problem="is damaged"):
        if values["format"] != _FORMAT:
            raise ValueError(f"format is {shown(values['format'])}, not {_FORMAT}")
        return {_checked_name(name): _to_seal(entry) for name, entry in values["files"].items()}


def changed_files(
    folder: Path,
    *,
    counts: Callable[[str], bool] = lambda name: False,
    meaning: Callable[[Path], bytes | None] = _all_bytes,
    error: Callable[[str], NasError] = NasError,
) -> Changes:
    """Compare the files of a folder with their seals; a folder without seals has no changes.

    Every sealed file is read once. SHA-256 processes about 1.4 GB in a second on one core, so that a model of 200
    million parameters takes half a second, and loading it afterwards finds it in the memory of the system.

    Args:
        folder: The folder.
        counts: Whether a file directly in the folder counts as added if it has no seal.
        meaning: As for `seal`.
        error: The type of the error.

    Raises:
        NasError: If the checksums are damaged, or a file cannot be read.
    """
    seals = read_seals(folder, error)
    if seals is None:
        return Changes()
    changed, missing = [], []
    for name, expected in sorted(seals.items()):
        path = folder / name
        if not path.is_file():
            missing.append(name)
        elif not _matches(path, expected, error) and not (
            expected.meaning and expected.meaning == _digest(meaning(path))
        ):
            changed.append(name)
    present = (path.name for path in folder.iterdir() if path.is_file() and path.name != SEALS)
    added = sorted(name for name in present if name not in seals and counts(name))
    return Changes(tuple(changed), tuple(missing), tuple(added))


def digest_of(path: Path, error: Callable[[str], NasError] = NasError) -> str:
    """Return the SHA-256 of a regular file, in hexadecimal, without copying its content.

    Args:
        path: The file.
        error: The type of the error.

    Raises:
        NasError: If it cannot be read.
    """
    size = check_regular_file(path, expected="a regular file", error=error)
    with reading(path, expected="a regular file", error=error), path.open("rb") as file:
        if size == 0:
            return hashlib.sha256(file.read()).hexdigest()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return hashlib.sha256(content).hexdigest()


def _digest(content: bytes | None) -> str | None:
    return None if content is None else hashlib.sha256(content).hexdigest()


def _matches(path: Path, expected: Seal, error: Callable[[str], NasError]) -> bool:
    size = path.stat().st_size
    candidates = [seal for seal in _accepted(expected) if seal.size == size]
    return bool(candidates) and digest_of(path, error) in {seal.sha256 for seal in candidates}


def _accepted(expected: Seal) -> Iterator[Seal]:
    yield expected
    if expected.replaced is not None:
        yield expected.replaced


def _checked_name(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not name or "\0" in name:
        raise ValueError(f"the file name {shown(name)} leads out of the folder")
    return name


def _to_seal(entry: Mapping[str, Any]) -> Seal:
    if not isinstance(entry["sha256"], str) or type(entry["size"]) is not int:
        raise ValueError(f"the entry {shown(entry)} has no sha256 and size")
    replaced, meaning = entry.get("replaced"), entry.get("meaning")
    return Seal(entry["sha256"], entry["size"], meaning, None if replaced is None else _to_seal(replaced))


def _to_entry(sealed: Seal) -> dict[str, Any]:
    replaced = None if sealed.replaced is None else _to_entry(sealed.replaced)
    entry = {"sha256": sealed.sha256, "size": sealed.size, "meaning": sealed.meaning, "replaced": replaced}
    return {key: value for key, value in entry.items() if value is not None}


def _write(folder: Path, seals: Mapping[str, Seal]) -> None:
    files = {name: _to_entry(sealed) for name, sealed in sorted(seals.items())}
    write_atomically(folder / SEALS, (json.dumps({"format": _FORMAT, "files": files}, indent=1) + "\n").encode())
