"""The forms of a table of predictions: CSV, TSV, JSON Lines and Parquet.

Rows are appended to a file under a temporary name. That of Parquet, which cannot be appended to, has JSON Lines and is
converted in the end.
"""

import csv
import io
import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from nas.common.errors import ArgumentError
from nas.common.files import replace_atomically, sync_directory
from nas.run.prediction.rows import Cell, Column

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""Characters at whose sight a spreadsheet takes a text for a formula."""
_CONVERTED_ROWS = 4096


class TableFormat(ABC):
    """A form of a table.

    Args:
        columns: The columns.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns

    def header(self) -> bytes:
        """Return what precedes the first row."""
        return b""

    @abstractmethod
    def encode(self, rows: Iterable[Sequence[Cell]]) -> bytes:
        """Return rows as they are appended."""

    def finish(self, partial: Path, output: Path) -> None:
        """Turn the file with all rows, which is synced, into the output.

        Args:
            partial: The file, in the folder of the output; it may stay or go.
            output: The output, which is replaced if it exists.

        Raises:
            OSError: If the output cannot be written.
        """
        partial.replace(output)
        sync_directory(output.parent)


class DelimitedTable(TableFormat):
    """CSV or TSV in UTF-8; several labels of a cell are joined.

    Args:
        columns: The columns.
        delimiter: The character between cells.
        separator: The text between the labels of a cell.
        is_spreadsheet: Whether a text that a spreadsheet would take for a formula gets an apostrophe in front.
    """

    def __init__(self, columns: Sequence[Column], *, delimiter: str, separator: str, is_spreadsheet: bool) -> None:
        super().__init__(columns)
        self._delimiter, self._separator, self._is_spreadsheet = delimiter, separator, is_spreadsheet

    def header(self) -> bytes:
        return self._lines([[column.name for column in self._columns]])

    def encode(self, rows: Iterable[Sequence[Cell]]) -> bytes:
        return self._lines(rows)

    def _lines(self, rows: Iterable[Sequence[Cell]]) -> bytes:
        text = io.StringIO()
        writer = csv.writer(text, delimiter=self._delimiter, lineterminator="\n")
        writer.writerows([self._cell(cell) for cell in row] for row in rows)
        return text.getvalue().encode()

    def _cell(self, cell: Cell) -> str | int | float | None:
        value = self._separator.join(map(str, cell)) if isinstance(cell, list) else cell
        if self._is_spreadsheet and isinstance(value, str) and value.startswith(_FORMULA_STARTS):
            return f"'{value}"
        return value


class JsonLines(TableFormat):
    """One JSON object a line, with the same keys in all."""

    def encode(self, rows: Iterable[Sequence[Cell]]) -> bytes:
        names = [column.name for column in self._columns]
        lines = (json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) for row in rows)
        return "".join(f"{line}\n" for line in lines).encode()


class ParquetTable(JsonLines):
    """Parquet with typed columns.

    Raises:
        ArgumentError: If pyarrow is not installed.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__(columns)
        try:
            import pyarrow  # noqa: PLC0415 (an optional dependency)
        except ImportError as error:
            raise ArgumentError(
                "--output: Parquet needs the package pyarrow; run pip install 'pmf-nas[datasets]', or expected another "
                "suffix such as .csv"
            ) from error
        kinds = {
            "integer": pyarrow.int64(),
            "text": pyarrow.string(),
            "texts": pyarrow.list_(pyarrow.string()),
            "number": pyarrow.float64(),
            "numbers": pyarrow.list_(pyarrow.float64()),
        }
        self._schema = pyarrow.schema([(column.name, kinds[column.kind]) for column in columns])

    def finish(self, partial: Path, output: Path) -> None:
        from pyarrow import Table, parquet  # noqa: PLC0415 (an optional dependency)

        with (
            partial.open(encoding="utf-8", newline="\n") as lines,
            replace_atomically(output) as temporary,
            parquet.ParquetWriter(temporary, self._schema) as writer,
        ):
            while rows := [json.loads(line) for line in itertools.islice(lines, _CONVERTED_ROWS)]:
                writer.write_table(Table.from_pylist(rows, schema=self._schema))


def check_suffix(output: Path, *, is_spreadsheet: bool) -> None:
    """Check that the name of an output stands for a form.

    Args:
        output: The output.
        is_spreadsheet: Whether it is for a spreadsheet.

    Raises:
        ArgumentError: If it does not, or the form has no use for a spreadsheet's prefix.
    """
    suffix = output.suffix.lower()
    if suffix not in SUFFIXES:
        raise ArgumentError(f"--output {output}: unknown form; expected a suffix of {', '.join(SUFFIXES)}")
    if is_spreadsheet and suffix not in (".csv", ".tsv"):
        raise ArgumentError(f"--spreadsheet: not allowed with {suffix}; expected --output with .csv or .tsv")


def table_format(output: Path, columns: Sequence[Column], *, separator: str, is_spreadsheet: bool) -> TableFormat:
    """Return the form that the name of an output stands for.

    Args:
        output: The output, whose suffix was checked.
        columns: The columns.
        separator: The text between several labels in a cell of CSV.
        is_spreadsheet: See `DelimitedTable`.
    """
    suffix = output.suffix.lower()
    if suffix in (".csv", ".tsv"):
        delimiter = "," if suffix == ".csv" else "\t"
        options: dict[str, Any] = {"separator": separator, "is_spreadsheet": is_spreadsheet}
        return DelimitedTable(columns, delimiter=delimiter, **options)
    return ParquetTable(columns) if suffix == ".parquet" else JsonLines(columns)
