"""Read the rows of CSV, TSV, JSON, JSON Lines and Parquet files as a stream."""

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from nas.common.boundary import check_no_lfs_pointer, check_regular_file, read_json, reading, shown
from nas.common.errors import DataError
from nas.config.data_schema import ColumnsConfig, DataConfig
from nas.data.readers.delimited import RowNotes, delimited_rows
from nas.data.readers.lines import Lines
from nas.data.readers.parquet_files import open_parquet

_PARQUET_BATCH = 4096
_MAX_JSON = 2**30
_JSON_LINES = (".jsonl", ".ndjson")
_STARTS = (
    (b"PAR1", "a Parquet file"),
    (b"PK\x03\x04", "a ZIP archive or an Excel workbook"),
    (b"\x1f\x8b", "a file compressed with gzip"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook"),
    (b"SQLite format 3", "an SQLite database"),
)
EXPECTED = "a CSV, TSV, JSON, JSON Lines or Parquet file"

Row = tuple[int, dict[str, Any]]
"""Number of the first line of a row, as editors count (the header of a CSV file is row 1), and values by column."""

_MaybeRow = tuple[int, dict[str, Any] | DataError]
"""A row, or its number with what is wrong with it."""


def read_rows(path: Path, config: DataConfig, columns: ColumnsConfig, notes: list[str]) -> Iterator[Row]:
    """Yield every row with the columns that the search file names; at most a few thousand rows are in memory.

    Args:
        path: The file; its suffix decides the format, and any unknown suffix means CSV.
        config: The `data` section of the search file.
        columns: Names of the columns; a split column of None is not read.
        notes: Receives what is worth knowing about the file, when all rows have been read.

    Raises:
        DataError: If the file cannot be read, lacks a column, or has a malformed row; names the file and the row.
    """
    for number, row in table_rows(path, config, columns, column_names(columns), notes):
        if isinstance(row, DataError):
            raise row
        yield number, row


def table_rows(
    path: Path, config: DataConfig, columns: ColumnsConfig, names: Sequence[str], notes: list[str]
) -> Iterator[_MaybeRow]:
    """Yield every row as `read_rows` does, with the error in place of the values where a row is malformed.

    Args:
        path: The file.
        config: The `data` section of the search file.
        columns: Names of the columns, for messages.
        names: Names of the columns to read.
        notes: See `read_rows`.

    Raises:
        DataError: If the file cannot be read, or not beyond a row, or lacks a column.
    """
    suffix = path.suffix.lower()
    _check_file(path, suffix)
    if suffix == ".parquet":
        yield from _parquet_rows(path, names, columns)
        return
    with reading(path, expected=EXPECTED, error=DataError):
        file = path.open("rb")
    with file:
        if suffix in _JSON_LINES or (suffix == ".json" and not _is_list(file)):
            yield from _with_columns(path, _objects(path, file), names, columns)
        elif suffix == ".json":
            yield from _with_columns(path, _listed_objects(path), names, columns, "entry")
        else:
            kind = RowNotes(path, config, columns)
            for number, header, row in delimited_rows(path, Lines(path, file), kind):
                if row is None:
                    positions = match_columns(path, header, names, columns, config.delimiter)
                elif isinstance(row, DataError):
                    yield number, row
                else:
                    yield number, {name: row[position] for name, position in positions.items()}
            notes += kind.lines()


def column_names(columns: ColumnsConfig) -> list[str]:
    """Return the names of the columns to read."""
    return [name for name in (columns.image, columns.text, columns.label, columns.split) if name is not None]


def input_columns(columns: ColumnsConfig, id_column: str | None) -> list[str]:
    """Return the names of the columns to read for a prediction, for which labels and splits are of no use."""
    return [name for name in (columns.image, columns.text, id_column) if name is not None]


def has_column(path: Path, name: str, config: DataConfig) -> bool:
    """Return whether a table has a column, in its header or in any row of JSON.

    Args:
        path: The file.
        name: The name of the column.
        config: The `data` section, with the form of the file.

    Raises:
        DataError: If the file cannot be read.
    """
    suffix = path.suffix.lower()
    _check_file(path, suffix)
    wanted = normal_column(name)
    if suffix == ".parquet":
        with open_parquet(path) as table:
            return wanted in map(normal_column, table.schema_arrow.names)
    with reading(path, expected=EXPECTED, error=DataError), path.open("rb") as file:
        if suffix in _JSON_LINES or (suffix == ".json" and not _is_list(file)):
            return _is_key(name, _objects(path, file))
        if suffix == ".json":
            return _is_key(name, _listed_objects(path))
        rows = delimited_rows(path, Lines(path, file), RowNotes(path, config, config.columns))
        return wanted in map(normal_column, next((header for _, header, _ in rows), ()))


def _is_key(name: str, rows: Iterator[_MaybeRow]) -> bool:
    """Return whether any row of JSON has a key; a malformed row is an error when it is read."""
    return any(not isinstance(row, DataError) and name in row for _, row in rows)


def read_all_columns(path: Path, config: DataConfig) -> Iterator[dict[str, Any]]:
    """Yield every row of a table with all of its columns, whose names the search file need not know.

    Args:
        path: The file.
        config: The `data` section, with the form of the file.

    Raises:
        DataError: If the file cannot be read or has a malformed row; names the file and the row.
    """
    suffix = path.suffix.lower()
    _check_file(path, suffix)
    if suffix == ".parquet":
        with open_parquet(path) as table, reading(path, expected="a whole Parquet file", error=DataError):
            for batch in table.iter_batches(_PARQUET_BATCH):
                yield from batch.to_pylist()
        return
    with reading(path, expected=EXPECTED, error=DataError):
        file = path.open("rb")
    with file:
        if suffix in _JSON_LINES or (suffix == ".json" and not _is_list(file)):
            yield from map(_sound, _objects(path, file))
        elif suffix == ".json":
            yield from map(_sound, _listed_objects(path))
        else:
            for _, header, row in delimited_rows(path, Lines(path, file), RowNotes(path, config, config.columns)):
                if isinstance(row, DataError):
                    raise row
                if row is not None:
                    yield dict(zip(map(normal_column, header), row, strict=True))


def _sound(row: _MaybeRow) -> dict[str, Any]:
    _, values = row
    if isinstance(values, DataError):
        raise values
    return values


def missing_column_hint(missing: Sequence[str], columns: ColumnsConfig) -> str:
    """Return how to fix a missing column in the search file.

    Args:
        missing: Names of the missing columns.
        columns: Names of the columns in the search file.
    """
    if columns.split is not None and list(missing) == [columns.split]:
        return "; set data.columns.split: null and data.held_out.validation if the data set has no splits"
    return "; name the columns in data.columns, for evaluate and predict with --text-column and the like"


def normal_column(name: object) -> str:
    """Return the name of a column without blanks around it, in Unicode's composed form."""
    return unicodedata.normalize("NFC", str(name)).strip()


def match_columns(
    path: Path, header: Sequence[str], names: Sequence[str], columns: ColumnsConfig, delimiter: str | None = None
) -> dict[str, int]:
    """Return the positions of the columns in a header.

    Args:
        path: The file, for messages.
        header: The header.
        names: Names of the columns to read.
        columns: Names of the columns in the search file.
        delimiter: The delimiter that the search file sets, for messages.

    Raises:
        DataError: If a column is missing, or in the header twice.
    """
    found = [normal_column(name) for name in header]
    missing = [column for column in names if normal_column(column) not in found]
    if missing:
        hint = missing_column_hint(missing, columns)
        other = [mark for mark in ("\t", ";", "|", ",") if len(header) == 1 and mark in header[0]]
        if other and delimiter is None:
            hint = f"; the values seem to be separated by {other[0]!r}: set data.delimiter to it"
        raise DataError(
            f"{path}: column {', '.join(map(repr, missing))} is missing; expected it in the header, got "
            f"{shown(', '.join(found), 200)}{hint} (files other than .tsv, .json, .jsonl and .parquet are read as CSV)"
        )
    repeated = [column for column in names if found.count(normal_column(column)) > 1]
    if repeated:
        raise DataError(
            f"{path}: column {', '.join(map(repr, repeated))} is ambiguous; expected it once in the header, got it "
            f"{found.count(normal_column(repeated[0]))} times"
        )
    return {column: found.index(normal_column(column)) for column in names}


def _check_file(path: Path, suffix: str) -> None:
    """Check that a file is a table as far as its first bytes show."""
    check_regular_file(path, expected=EXPECTED, error=DataError)
    check_no_lfs_pointer(path, expected=EXPECTED, error=DataError)
    with reading(path, expected=EXPECTED, error=DataError), path.open("rb") as file:
        start = file.read(16)
    kind = next((kind for magic, kind in _STARTS if start.startswith(magic)), None)
    if kind is not None and not (suffix == ".parquet" and start.startswith(b"PAR1")):
        hint = "; give it the suffix .parquet" if start.startswith(b"PAR1") else ""
        raise DataError(f"{path}: the manifest cannot be read; expected {EXPECTED}, got {kind}{hint}")


def _is_list(file: BinaryIO) -> bool:
    start = file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
    file.seek(0)
    return start.startswith(b"[")


def _objects(path: Path, file: BinaryIO) -> Iterator[_MaybeRow]:
    for number, line in enumerate(Lines(path, file), start=1):
        if line.strip():
            try:
                yield number, parse_object(line, f"{path}, row {number}")
            except DataError as error:
                yield number, error


def _listed_objects(path: Path) -> Iterator[_MaybeRow]:
    values = read_json(path, expected="a list of JSON objects", error=DataError, max_bytes=_MAX_JSON)
    for number, value in enumerate(values, start=1):
        if isinstance(value, dict):
            yield number, value
        else:
            yield (
                number,
                DataError(f"{path}, entry {number}: not a JSON object; expected keys and values, got {shown(value)}"),
            )


def parse_object(line: str, where: str) -> dict[str, Any]:
    """Return the JSON object of a line.

    Args:
        line: The line.
        where: File and row, for messages.

    Raises:
        DataError: If it is none, or a key occurs twice.
    """
    with reading(where, expected="one JSON object per line", error=DataError, problem="not valid JSON"):
        value = json.loads(line, object_pairs_hook=_distinct)
    if not isinstance(value, dict):
        raise DataError(f"{where}: not a JSON object; expected one JSON object per line, got {shown(value)}")
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {shown(next(key for key in keys if keys.count(key) > 1))} is given twice")
    return values


def _with_columns(
    path: Path, rows: Iterator[_MaybeRow], names: Sequence[str], columns: ColumnsConfig, unit: str = "row"
) -> Iterator[_MaybeRow]:
    for number, row in rows:
        if isinstance(row, DataError):
            yield number, row
            continue
        missing = [column for column in names if column not in row]
        if missing:
            yield (
                number,
                DataError(
                    f"{path}, {unit} {number}: key {', '.join(map(repr, missing))} is missing; expected it in every "
                    f"row{missing_column_hint(missing, columns)}"
                ),
            )
        else:
            yield number, {column: row[column] for column in names}


def _parquet_rows(path: Path, names: Sequence[str], columns: ColumnsConfig) -> Iterator[Row]:
    with open_parquet(path) as table:
        header = table.schema_arrow.names
        positions = match_columns(path, header, names, columns)
        stored: Mapping[str, str] = {name: header[position] for name, position in positions.items()}
        number, batches = 0, table.iter_batches(_PARQUET_BATCH, columns=list(stored.values()))
        while True:
            with reading(
                f"{path}, after row {number}",
                expected="a whole Parquet file",
                error=DataError,
                problem="cannot be read",
            ):
                batch = next(batches, None)
                rows = [] if batch is None else batch.to_pylist()
            if batch is None:
                return
            for row in rows:
                number += 1
                yield number, {name: row[column] for name, column in stored.items()}
