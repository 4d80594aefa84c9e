"""Read the rows of CSV, TSV, JSON Lines and Parquet files as a stream."""

import csv
import json
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nas.common.errors import DataError
from nas.config.data_schema import ColumnsConfig

_PARQUET_BATCH = 4096
_MAX_FIELD_CHARACTERS = 2**24
"""Limit of a CSV value: the texts of web pages exceed the 131,072 characters that Python allows by default."""

Row = tuple[int, dict[str, Any]]
"""Number of the first line of a row, as editors count (the header of a CSV file is row 1), and values by column."""


def read_rows(path: Path, columns: ColumnsConfig) -> Iterator[Row]:
    """Yield every row with the columns that the search file names; at most a few thousand rows are in memory.

    Args:
        path: The file; its suffix decides the format, and any unknown suffix means CSV.
        columns: Names of the columns; a split column of None is not read.

    Raises:
        DataError: If the file cannot be read, lacks a column, or has a malformed row; names the file and the row.
    """
    names = [name for name in (columns.image, columns.text, columns.label, columns.split) if name is not None]
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            yield from _parquet_rows(path, names, columns)
            return
        with path.open(encoding="utf-8-sig", newline="") as file:
            if suffix in (".jsonl", ".ndjson"):
                yield from _json_rows(path, file, names, columns)
            else:
                yield from _csv_rows(path, file, names, columns)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: the manifest cannot be read: {error}") from error


def missing_column_hint(missing: Sequence[str], columns: ColumnsConfig) -> str:
    """Return how to fix a missing column in the search file.

    Args:
        missing: Names of the missing columns.
        columns: Names of the columns in the search file.
    """
    if columns.split is not None and list(missing) == [columns.split]:
        return "; set data.columns.split: null and data.held_out.validation if the data set has no splits"
    return "; set the names of the columns in data.columns"


def _check_header(path: Path, header: Sequence[str], names: Sequence[str], columns: ColumnsConfig) -> None:
    missing = [column for column in names if column not in header]
    if missing:
        raise DataError(
            f"{path}: column {', '.join(map(repr, missing))} is missing; expected it in the header, got "
            f"{textwrap.shorten(', '.join(header), 200, placeholder=' ...')}{missing_column_hint(missing, columns)} "
            "(files other than .tsv, .jsonl and .parquet are read as CSV)"
        )
    repeated = [column for column in names if list(header).count(column) > 1]
    if repeated:
        raise DataError(f"{path}: column {', '.join(map(repr, repeated))} is ambiguous; expected it once in the header")


def _csv_rows(path: Path, file: Iterator[str], names: Sequence[str], columns: ColumnsConfig) -> Iterator[Row]:
    csv.field_size_limit(max(csv.field_size_limit(), _MAX_FIELD_CHARACTERS))
    # Strict: a text with an opening but no closing quote extends to the next quote in the file; strict mode raises
    # unless that quote happens to end a value.
    delimiter = "\t" if path.suffix.lower() in (".tsv", ".tab") else ","
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    header = next(reader, [])
    _check_header(path, header, names, columns)
    positions = {column: header.index(column) for column in names}
    while True:
        number = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise DataError(
                f"{path}, row {number}: malformed quotes ({error}); expected a text that begins with a quote to be "
                "quoted as a whole, with doubled quotes inside"
            ) from error
        if row is None:
            return
        if not row:  # a blank line
            continue
        if len(row) != len(header):
            raise DataError(
                f"{path}, row {number}: wrong number of values; expected {len(header)} as in the header, got {len(row)}"
            )
        yield number, {column: row[position] for column, position in positions.items()}


def _json_rows(path: Path, file: Iterator[str], names: Sequence[str], columns: ColumnsConfig) -> Iterator[Row]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, row {number}: not valid JSON ({error}); expected a JSON object") from error
        missing = [column for column in names if not isinstance(row, dict) or column not in row]
        if missing:
            raise DataError(
                f"{path}, row {number}: key {', '.join(map(repr, missing))} is missing; expected it in every row"
                f"{missing_column_hint(missing, columns)}"
            )
        yield number, {column: row[column] for column in names}


def _parquet_rows(path: Path, names: Sequence[str], columns: ColumnsConfig) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException, parquet  # noqa: PLC0415 (an optional dependency)
    except ImportError as error:
        raise DataError(f"{path}: Parquet needs the package pyarrow; run pip install 'pmf-nas[datasets]'") from error
    try:
        with parquet.ParquetFile(path) as file:
            _check_header(path, file.schema_arrow.names, names, columns)
            number = 0
            for batch in file.iter_batches(_PARQUET_BATCH, columns=list(names)):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except ArrowException as error:
        raise DataError(f"{path}: the manifest cannot be read: {error}") from error
