"""Keep data that a program holds in memory in the run directory, so that the run can be resumed without the program."""

import contextlib
import hashlib
import io
import json
import os
import shutil
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from nas.common.boundary import reading
from nas.common.errors import DataError, StudyError
from nas.common.files import sync_directory
from nas.common.sealed_json import read_sealed_json, write_sealed_json
from nas.common.units import format_bytes
from nas.config.data_schema import MAX_PIXELS
from nas.data.given_images import GivenImages, as_picture, undecoded_file
from nas.run.api.given_table import GivenTable, plain_cell
from nas.run.directory import INPUT, check_new_directory, is_run
from nas.run.proposal.columns import TableColumns
from nas.storage.backends.journal import LOCK
from nas.storage.lease import LockFile

TABLE = "table.jsonl"
PICTURES = "images.zip"
_DESCRIPTION = "input.json"
_SUFFIXES = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"GIF8": ".gif", b"RIFF": ".webp", b"BM": ".bmp"}
_FAST = 1
"""The level of compression: higher ones take several times as long, for pictures a few percent smaller."""


def keep_input(
    directory: Path,
    table: GivenTable,
    columns: TableColumns,
    *,
    rename: Callable[[str], str] | None,
    note: Callable[[str], None],
) -> Path:
    """Write a table, and the pictures in it, to the folder `input` of a run directory, all of it or nothing.

    A folder that has the same content is left as it is.

    Args:
        directory: The run directory.
        table: The table.
        columns: Its columns for image, text, label and split; only these are kept.
        rename: Function from a path in the column of images to that in the kept table, if all are paths; None to keep
            the pictures themselves.
        note: The receiver of a line with the sizes.

    Returns:
        The folder.

    Raises:
        DataError: If a cell cannot be used; names the row.
        StudyError: If the directory holds a run on other data, or another process works on it.
        OSError: If the folder cannot be written.
    """
    target = directory / INPUT
    if is_run(directory):
        if _kept_digest(target) != _write(None, table, columns, rename)["digest"]:
            raise StudyError(
                f"{directory}: holds a search on other data; expected the {table.name} that it was started with, or "
                "another directory (--run-dir)"
            )
        return target
    check_new_directory(directory)
    if target.exists() and not (target / _DESCRIPTION).exists():
        raise StudyError(f"{target}: is not of this program; expected an empty or new directory (--run-dir)")
    directory.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(LockFile(directory / LOCK)):
        for path in directory.glob(f".{INPUT}.*"):  # of a start that was killed
            shutil.rmtree(path)
        temporary = directory / f".{INPUT}.{uuid.uuid4().hex}"
        temporary.mkdir()
        try:
            facts = _write(temporary, table, columns, rename)
            write_sealed_json(temporary / _DESCRIPTION, facts)
            if target.exists():
                shutil.rmtree(target)
            temporary.rename(target)
            sync_directory(directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    pictures = f" and {facts['pictures']:,} pictures" if facts["pictures"] else ""
    size = sum(path.stat().st_size for path in target.iterdir())
    note(f"The {table.name} ({facts['rows']:,} rows{pictures}, {format_bytes(size)}) is kept in {target}")
    return target


def _kept_digest(folder: Path) -> str | None:
    path = folder / _DESCRIPTION
    if not path.exists():
        return None
    return read_sealed_json(
        path,
        lambda values: str(values["digest"]),
        expected="the description of the data of a run",
        remedy="resume the run with its directory alone (nas.resume)",
    )


def _write(
    folder: Path | None, table: GivenTable, columns: TableColumns, rename: Callable[[str], str] | None
) -> dict[str, Any]:
    """Write the files, or without a folder only compute the digest, and return facts about the content."""
    digest, count = hashlib.sha256(), 0
    with contextlib.ExitStack() as stack:
        lines = None if folder is None else stack.enter_context(_synced(folder / TABLE))
        pictures = None
        if rename is None:
            archive = None if folder is None else stack.enter_context(_synced(folder / PICTURES))
            pictures = stack.enter_context(_Pictures(archive, digest.update))
        for number, row in enumerate(table.rows()):
            where = f"{table.name}, row {number}"
            values = _plain_row(row, columns, where)
            cell = row.get(columns.image)
            name = pictures.add(cell, where) if pictures is not None else (rename or str)(_path_text(cell, where))
            line = json.dumps({columns.image: name, **values}, ensure_ascii=False).encode() + b"\n"
            digest.update(line)
            if lines is not None:
                lines.write(line)
            count = number + 1
    return {"digest": digest.hexdigest(), "rows": count, "pictures": 0 if pictures is None else pictures.count}


def _plain_row(row: Mapping[str, Any], columns: TableColumns, where: str) -> dict[str, Any]:
    values = {}
    for column in (columns.text, columns.label, columns.split):
        if column is not None:
            try:
                values[column] = plain_cell(row.get(column))
            except TypeError as error:
                raise DataError(f"{where}: {column} cannot be used; {error}") from error
    return values


def _path_text(cell: Any, where: str) -> str:
    if not isinstance(cell, str | os.PathLike) or not os.fspath(cell):
        raise DataError(f"{where}: the image is missing; expected a path in every row")
    return str(os.fspath(cell))


@contextlib.contextmanager
def _synced(path: Path) -> Iterator[io.BufferedWriter]:
    """Open a new file, which is synced to disk at the end."""
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


class _Pictures:
    """Writes pictures to a ZIP file, equal ones once.

    Files are kept as they are. Other pictures are kept as a prediction would read them, in RGB without loss.

    Args:
        archive: The file; None to write nothing.
        update: Receives what identifies the pictures, in their order.
    """

    def __init__(self, archive: io.BufferedWriter | None, update: Callable[[bytes], object]) -> None:
        self._archive = None if archive is None else zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED)
        self._update = update
        self._names: dict[bytes, str] = {}

    def __enter__(self) -> "_Pictures":
        return self

    def __exit__(self, *_: object) -> None:
        if self._archive is not None:
            self._archive.close()

    @property
    def count(self) -> int:
        """The number of different pictures."""
        return len(self._names)

    def add(self, cell: Any, where: str) -> str:
        """Write the picture of a cell, and return its name in the archive.

        Raises:
            DataError: If it is no picture, or cannot be read.
        """
        content = _file_content(cell, where)
        picture = None if content is not None else _decoded(cell, where)
        identity = content if picture is None else repr(picture.size).encode() + picture.tobytes()
        assert identity is not None
        digest = hashlib.sha256(identity).digest()
        if digest not in self._names:
            self._update(digest)
            suffix = ".png" if content is None else _suffix(content)
            self._names[digest] = f"{len(self._names):06}{suffix}"
            if self._archive is not None:
                self._archive.writestr(self._names[digest], _png(picture) if content is None else content)
        return self._names[digest]


def _file_content(cell: Any, where: str) -> bytes | None:
    """Return the content of the file that a cell holds, names or was opened from; None if there is none."""
    if isinstance(cell, Mapping):
        cell = cell.get("path") if cell.get("bytes") is None else cell["bytes"]
    if isinstance(cell, bytes):
        return cell
    path = undecoded_file(cell) if isinstance(cell, Image.Image) else cell
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        return None
    with reading(where, expected="an image file", error=DataError, problem="the image cannot be read"):
        return Path(path).read_bytes()


def _decoded(cell: Any, where: str) -> Image.Image:
    picture = as_picture(cell, where)
    assert isinstance(picture, Image.Image), "all else has the content of a file"
    return GivenImages({where: picture}, MAX_PIXELS).open(where)


def _suffix(content: bytes) -> str:
    return next((suffix for start, suffix in _SUFFIXES.items() if content.startswith(start)), "")


def _png(picture: Image.Image | None) -> bytes:
    assert picture is not None
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=_FAST)
    return buffer.getvalue()
