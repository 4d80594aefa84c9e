"""Parquet files with the images inside, as data sets on the Hugging Face Hub have them.

An image is a cell with the content of its file, alone or with its path. Cells are read batch by batch from the
memory-mapped files, so that never more than a few batches are in memory.
"""

import hashlib
import io
import json
import re
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from nas.common.boundary import check_no_lfs_pointer, check_regular_file, reading, shown
from nas.common.errors import DataError
from nas.config.data_schema import MAX_PIXELS
from nas.data.decoding import OpenFile, open_file
from nas.data.images import ImageSource
from nas.data.pixels import ImageProblem
from nas.data.samples import SPLIT_NAMES

_EXPECTED = "a Parquet file"
_BATCH_BYTES = 2**24
_MAX_BATCH_ROWS = 1000
_KEPT_BATCHES = 2
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")
_WORD = re.compile(r"[a-z]+")


def open_parquet(path: Path) -> Any:
    """Open a Parquet file.

    Raises:
        DataError: If it is none, or pyarrow is not installed.
    """
    try:
        from pyarrow import parquet  # noqa: PLC0415 (an optional dependency)
    except ImportError as error:
        raise DataError(f"{path}: Parquet needs the package pyarrow; run pip install 'pmf-nas[datasets]'") from error
    check_regular_file(path, expected=_EXPECTED, error=DataError)
    check_no_lfs_pointer(path, expected=_EXPECTED, error=DataError)
    with reading(path, expected=_EXPECTED, error=DataError, problem="the manifest cannot be read"):
        return parquet.ParquetFile(path, memory_map=True)


def holds_images(path: Path, column: str) -> bool:
    """Return whether the cells of a column are the content of files, alone or with their path.

    Raises:
        DataError: If the file cannot be read.
    """
    from pyarrow import types  # noqa: PLC0415 (an optional dependency)

    with open_parquet(path) as table:
        schema = table.schema_arrow
        if schema.names.count(column) != 1:
            return False
        kind = schema.field(column).type
        if types.is_struct(kind):
            return any(kind.field(index).name == "bytes" for index in range(kind.num_fields))
        return bool(types.is_binary(kind) or types.is_large_binary(kind))


def class_names(path: Path, column: str) -> list[str] | None:
    """Return the names of a column of class indices, or of lists of them, as Hugging Face's datasets describe it."""
    with open_parquet(path) as table:
        content = (table.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
    with reading(f"{path}, the description of its features", expected="valid JSON", error=DataError):
        feature = json.loads(content).get("info", {}).get("features", {}).get(column)
        for entry in (feature, feature.get("feature") if isinstance(feature, dict) else None):
            if isinstance(entry, dict) and "names" in entry:
                return [str(name) for name in entry["names"]]
    return None


def find_parts(root: Path) -> dict[str, list[Path]]:
    """Return the Parquet files of a file or folder by the split that their names tell; '' where none does.

    Raises:
        DataError: If a file of a sequence is missing, or the files of a split are in several folders.
    """
    with reading(root, expected="a folder with Parquet files", error=DataError):
        paths = sorted(root.rglob("*.parquet")) if root.is_dir() else [root]
    parts: dict[str, list[Path]] = {}
    for path in paths:
        parts.setdefault(_split_of(path.relative_to(root) if root.is_dir() else Path(path.name)), []).append(path)
    for part, files in parts.items():
        folders = sorted({str(path.parent) for path in files})
        if len(folders) > 1:
            raise DataError(
                f"{root}: the Parquet files of {part or 'the data set'} are in several folders; expected one, got "
                f"{folders[0]} and {folders[1]}; set data.folder to the one that is meant"
            )
        found = [(int(match[1]), int(match[2])) for path in files if (match := _SHARD.search(path.stem))]
        missing = sorted(set(range(max((count for _, count in found), default=0))) - {number for number, _ in found})
        if missing:
            raise DataError(
                f"{files[0].parent}: the Parquet file {missing[0]:05} of {part or 'the data set'} is missing; expected "
                f"{found[0][1]} files, got {len(found)}"
            )
    if "" in parts and len(parts) > 1:
        raise DataError(f"{parts[''][0]}: the name tells no split; expected one as in {parts[max(parts)][0].name}")
    return parts


def _split_of(path: Path) -> str:
    for text in (path.stem, *reversed(path.parent.parts)):
        found = [SPLIT_NAMES[word] for word in _WORD.findall(text.lower()) if word in SPLIT_NAMES]
        if found:
            return found[0]
    return ""


def read_cells(paths: Sequence[Path], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of Parquet files with some columns.

    Raises:
        DataError: If a file is damaged, or lacks a column.
    """
    for path in paths:
        with open_parquet(path) as table:
            missing = [name for name in columns if name not in table.schema_arrow.names]
            if missing:
                raise DataError(
                    f"{path}: column {', '.join(map(repr, missing))} is missing; expected it in every file, got "
                    f"{shown(', '.join(table.schema_arrow.names), 200)}"
                )
            batches = table.iter_batches(_batch_rows(table), columns=list(columns))
            while True:
                with reading(path, expected="a whole Parquet file", error=DataError):
                    batch = next(batches, None)
                    rows = [] if batch is None else batch.to_pylist()
                if batch is None:
                    break
                yield from rows


def _batch_rows(table: Any) -> int:
    """Return the number of rows of about 16 MiB."""
    groups = [table.metadata.row_group(index) for index in range(table.metadata.num_row_groups)]
    largest = max((group.total_byte_size / max(group.num_rows, 1) for group in groups), default=1)
    return min(max(int(_BATCH_BYTES / max(largest, 1)), 1), _MAX_BATCH_ROWS)


@cache
def first_rows_with_image(paths: tuple[Path, ...], column: str) -> Sequence[int]:
    """Return, for every row, the first row with the same image; see the reader of saved data sets."""
    first: dict[object, int] = {}
    rows = []
    for row, values in enumerate(read_cells(paths, (column,))):
        content, path = _content(values[column])
        key: object = path or row if content is None else hashlib.sha256(content).digest()
        rows.append(first.setdefault(key, row))
    return rows


def _content(cell: Any) -> tuple[bytes | None, str | None]:
    """Return the content and the path in a cell."""
    if isinstance(cell, dict):
        return cell.get("bytes"), cell.get("path")
    return cell, None


class _Cursor:
    """Reads single cells of a file, fast if their rows increase.

    Args:
        path: The file.
        column: The column.
    """

    def __init__(self, path: Path, column: str) -> None:
        self._table, self._column = open_parquet(path), column
        metadata = self._table.metadata
        counts = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
        self._starts = [0, *accumulate(counts)]
        self._batches: Iterator[Any] = iter(())
        self._next = self._starts[-1]
        self._kept: deque[tuple[int, Any]] = deque(maxlen=_KEPT_BATCHES)

    def cell(self, row: int) -> Any:
        while True:
            for start, values in self._kept:
                if start <= row < start + len(values):
                    return values[row - start].as_py()
            group = bisect_right(self._starts, row) - 1
            if row < self._next or group > bisect_right(self._starts, self._next) - 1:
                groups = list(range(group, len(self._starts) - 1))
                rows = _batch_rows(self._table)
                self._batches = self._table.iter_batches(rows, row_groups=groups, columns=[self._column])
                self._next = self._starts[group]
            values = next(self._batches).column(0)
            self._kept.append((self._next, values))
            self._next += len(values)


class ParquetImages(ImageSource):
    """Images inside Parquet files, named by part and row, such as `train/17`.

    Args:
        location: The file or folder of the data set.
        parts: The files of each part.
        column: Name of the image column.
        folder: The folder that paths in cells without content are relative to.
        max_pixels: The number of pixels that an image may have.
    """

    def __init__(
        self,
        location: Path,
        parts: Mapping[str, Sequence[Path]],
        column: str,
        *,
        folder: Path,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        super().__init__(location, max_pixels)
        self._parts, self._column, self._folder = parts, column, folder
        self._starts: dict[str, list[int]] = {}
        for part, paths in parts.items():
            counts = []
            for path in paths:
                with open_parquet(path) as table:
                    counts.append(int(table.metadata.num_rows))
            self._starts[part] = [0, *accumulate(counts)]
        self._local = threading.local()  # each thread reads forwards on its own

    def _place(self, name: str) -> tuple[Path, int] | None:
        part, _, text = name.rpartition("/")
        starts = self._starts.get(part)
        if starts is None or not text.isdecimal() or int(text) >= starts[-1]:
            return None
        index = bisect_right(starts, int(text)) - 1
        return self._parts[part][index], int(text) - starts[index]

    def fingerprint(self, name: str) -> str | None:
        place = self._place(name)
        if place is None:
            return None
        status = place[0].stat()
        return f"{status.st_size} {status.st_mtime_ns} {place[1]}"

    def modified_ns(self, name: str) -> int:
        place = self._place(name)
        return 0 if place is None else place[0].stat().st_mtime_ns

    def size(self, name: str) -> int | None:
        try:
            with self._reading(name):
                return sum(len(chunk) for chunk in self._chunks(name))
        except DataError:
            return None

    def _chunks(self, name: str) -> Iterable[bytes]:
        place = self._place(name)
        if place is None:
            raise ImageProblem("is missing; expected the number of a row")
        cursors: dict[Path, _Cursor] = self._local.__dict__.setdefault("cursors", {})
        if place[0] not in cursors:
            cursors.clear()  # one open file for each thread
            cursors[place[0]] = _Cursor(place[0], self._column)
        content, path = _content(cursors[place[0]].cell(place[1]))
        if content is not None:
            return (bytes(content),)
        if path is None:
            raise ImageProblem("the cell is empty; expected an image")
        check_regular_file(self._folder / path, expected="an image file", error=DataError)
        return ((self._folder / path).read_bytes(),)

    def _opener(self, name: str) -> OpenFile:
        content = b"".join(self._chunks(name))
        return lambda: open_file(io.BytesIO(content))
