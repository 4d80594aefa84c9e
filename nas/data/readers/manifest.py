"""A person's own data set: a file that names an image, a text, labels and a split a row."""

import ast
import csv
import json
import math
import posixpath
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.common.errors import DataError
from nas.config.schema import ColumnsConfig, DataConfig
from nas.data.dataset import SPLIT_NAMES, SPLITS, Found, Sample
from nas.data.images import ImageSource, open_images
from nas.data.readers.base import Reader

_TOGETHER = 4096

csv.field_size_limit(2**24)  # characters of a text: web pages are longer than the 131,072 that Python starts with

Row = tuple[int, dict[str, Any]]
"""The number of its first line, as an editor shows it (a CSV's header is row 1), and its values by column."""


class ManifestReader(Reader):
    """Reads every row of a CSV, TSV, JSON Lines or Parquet file."""

    def find_samples(self) -> Found:
        config, path = self.config, Path(self.config.manifest or "")
        splits: dict[str, list[Sample]] = {split: [] for split in SPLITS}
        for number, row in rows_of(path, config.columns):
            sample = sample_of(row, config, path, number)
            splits[split_of(row, config.columns, f"{path}, row {number}")].append(sample)
        return Found(str(path), splits, has_several_labels=config.labels == "several")

    def open_images(self) -> ImageSource:
        return open_images(Path(self.config.images or ""))


def sample_of(row: Mapping[str, Any], config: DataConfig, path: Path, number: int) -> Sample:
    """The sample of a row.

    Raises:
        DataError: If it has no image, no label where it needs one, or something else than texts.
    """
    columns = config.columns
    place = f"row {number}"
    where = f"{path}, {place}"
    labels = labels_of(row[columns.label], config, where)
    name = as_text(row[columns.image], f"{where}: {columns.image}")
    for column, is_empty in ((columns.image, not name), (columns.label, config.labels == "one" and not labels)):
        if is_empty:
            raise DataError(f"{where}: {column} is empty; every row needs an image and a label")
    # Two ways to write one path are one image.
    return Sample(posixpath.normpath(name), as_text(row[columns.text], f"{where}: {columns.text}"), labels, place)


def labels_of(value: Any, config: DataConfig, where: str) -> tuple[str, ...]:
    """Labels of a cell: a list, or a text; with several, parted by the separator.

    Raises:
        DataError: If they are no texts, or a list where each sample has one label.
    """
    name = f"{where}: {config.columns.label}"
    if config.labels == "one":
        if isinstance(value, list | tuple):
            raise DataError(f"{name} is a list; expected one label (set data.labels: several to allow more)")
        text = as_text(value, name)
        return (text,) if text else ()
    if isinstance(value, list | tuple):
        parts = [as_text(part, name) for part in value]
    else:
        cell = as_text(value, name)
        if _is_written_list(cell):  # it would be split into classes that nobody meant
            raise DataError(
                f"{name} is {cell[:60]!r}, a list that was written as a text; expected labels parted by "
                f"{config.label_separator!r} (data.label_separator), or a list in JSON Lines or Parquet"
            )
        parts = cell.split(config.label_separator)
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))


def _is_written_list(cell: str) -> bool:
    """Whether a cell is what Python or JSON write for a list of texts or numbers."""
    if not (cell.startswith("[") and cell.endswith("]")):
        return False
    try:
        return isinstance(ast.literal_eval(cell), list)
    except (ValueError, SyntaxError, MemoryError, RecursionError):  # it may be a class's name
        return False


def split_of(row: Mapping[str, Any], columns: ColumnsConfig, where: str) -> str:
    """Name of a row's split here; train where there is no column of splits.

    Raises:
        DataError: If it is none of the known names.
    """
    if columns.split is None:
        return "train"
    name = as_text(row[columns.split], f"{where}: {columns.split}")
    split = SPLIT_NAMES.get(name.lower())
    if split is None:
        raise DataError(f"{where}: {columns.split} is {name!r}; expected one of {', '.join(SPLITS)}")
    return split


def as_text(value: Any, where: str) -> str:
    """A cell as text: numbers as they are written, nothing (or NaN, as pandas has it) as the empty text.

    Raises:
        DataError: If it is neither.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not isinstance(value, str | int | float):
        raise DataError(f"{where} is {type(value).__name__}; expected a text")
    return str(value).strip()


def rows_of(path: Path, columns: ColumnsConfig) -> Iterator[Row]:
    """Rows with the wanted columns, a few thousand in memory at a time.

    Raises:
        DataError: If the file cannot be read or lacks a column.
    """
    wanted = [name for name in (columns.image, columns.text, columns.label, columns.split) if name is not None]
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            yield from _parquet_rows(path, wanted)
            return
        with path.open(encoding="utf-8-sig", newline="") as file:
            if suffix in (".jsonl", ".ndjson"):
                yield from _json_rows(path, file, wanted)
            else:
                yield from _csv_rows(path, file, wanted, "\t" if suffix in (".tsv", ".tab") else ",")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: the manifest cannot be read: {error}") from error


def _check_header(path: Path, header: Sequence[str], wanted: Sequence[str]) -> None:
    missing = [column for column in wanted if column not in header]
    if missing:
        raise DataError(
            f"{path}: there is no column {', '.join(map(repr, missing))}; the header has "
            f"{textwrap.shorten(', '.join(header), 200, placeholder=' ...')} (a manifest is .csv, .tsv, .jsonl or "
            ".parquet by its name, and CSV by any other)"
        )
    twice = [column for column in wanted if list(header).count(column) > 1]
    if twice:
        raise DataError(f"{path}: the column {', '.join(map(repr, twice))} is there more than once")


def _csv_rows(path: Path, file: Iterator[str], wanted: Sequence[str], delimiter: str) -> Iterator[Row]:
    # Strict: a text that begins with a quote and does not end with one takes all up to the next quote with it, which is
    # told where that one does not end a value either.
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    header = next(reader, [])
    _check_header(path, header, wanted)
    places = {column: header.index(column) for column in wanted}
    while True:
        number = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise DataError(
                f"{path}, row {number}: {error}; expected texts that begin with a quote to be in quotes, with those "
                "inside doubled"
            ) from error
        if row is None:
            return
        if not row:  # a blank line
            continue
        if len(row) != len(header):
            raise DataError(f"{path}, row {number}: has more or fewer values than the header has columns")
        yield number, {column: row[place] for column, place in places.items()}


def _json_rows(path: Path, file: Iterator[str], wanted: Sequence[str]) -> Iterator[Row]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, row {number}: is not JSON: {error}") from error
        missing = [column for column in wanted if not isinstance(row, dict) or column not in row]
        if missing:
            raise DataError(f"{path}, row {number}: there is no key {', '.join(map(repr, missing))}")
        yield number, {column: row[column] for column in wanted}


def _parquet_rows(path: Path, wanted: Sequence[str]) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException, parquet  # noqa: PLC0415 (an extra: not everybody has Parquet)
    except ImportError as error:
        raise DataError(f"{path}: Parquet needs another package; run pip install 'pmf-nas[datasets]'") from error
    try:
        with parquet.ParquetFile(path) as file:
            _check_header(path, file.schema_arrow.names, wanted)
            number = 0
            for batch in file.iter_batches(_TOGETHER, columns=list(wanted)):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except ArrowException as error:
        raise DataError(f"{path}: the manifest cannot be read: {error}") from error
