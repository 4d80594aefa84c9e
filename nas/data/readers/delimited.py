"""Read CSV and TSV files without losing a row to a quote.

A quoted value may extend over several lines. If a text merely begins with a quote, and another further down ends with
one, all rows between become one value, and nothing in the format shows it. So TSV has no quoting unless `data.quotes`
declares it, and a value of several lines is refused if at least two of its lines look like rows of their own.
"""

import csv
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from nas.common.boundary import shown
from nas.common.errors import DataError
from nas.config.data_schema import ColumnsConfig, DataConfig
from nas.data.readers.lines import MAX_LINE
from nas.data.samples import SPLIT_NAMES

_TABS = (".tsv", ".tab")


class RowNotes:
    """What is worth knowing about the rows of a file, and the check of values that extend over several lines.

    Args:
        path: The file.
        config: The `data` section of the search file.
        columns: Names of the columns.
    """

    def __init__(self, path: Path, config: DataConfig, columns: ColumnsConfig) -> None:
        self.path = path
        self._columns = columns
        is_tab = path.suffix.lower() in _TABS
        self.delimiter = config.delimiter or ("\t" if is_tab else ",")
        self.has_quotes = config.quotes == "double" or (config.quotes == "auto" and not is_tab)
        self._header: Sequence[str] = ()
        self._several_lines = self._literal_quotes = 0
        self._first: str | None = None

    def set_header(self, header: Sequence[str]) -> None:
        """Take the header, before the first row."""
        self._header = [name.strip() for name in header]

    def check(self, number: int, lines: Sequence[str], row: Sequence[str]) -> None:
        """Check a row and count what `lines` reports.

        Args:
            number: The number of its first line.
            lines: Its lines in the file.
            row: Its values.

        Raises:
            DataError: If it seems to hold other rows.
        """
        if not self.has_quotes:
            self._literal_quotes += any(len(value) > 1 and value[0] == value[-1] == '"' for value in row)
            return
        if len(lines) == 1:
            return
        suffix = self._suffix(row)
        alike = [number + index for index, line in enumerate(lines) if self._looks_like_row(line, suffix)]
        if len(alike) > 1:
            raise DataError(
                f"{self.path}, row {number}: a quoted value extends to row {number + len(lines) - 1}, and rows "
                f"{alike[0]} and {alike[1]} in it look like rows of their own; expected a closing quote at the end of "
                f"the value, got {shown(lines[0].rstrip())}; double the quotes inside of values, or set data.quotes: "
                "none if quotes have no meaning"
            )
        self._several_lines += 1
        self._first = self._first or f"rows {number} to {number + len(lines) - 1}"

    def _suffix(self, row: Sequence[str]) -> str:
        position = self._position(self._columns.image)
        name = row[position].strip() if position is not None and position < len(row) else ""
        return posixpath.splitext(name)[1].lower()

    def _position(self, column: str | None) -> int | None:
        return self._header.index(column) if column in self._header else None

    def _looks_like_row(self, line: str, suffix: str) -> bool:
        parts = [part.strip().strip('"') for part in line.rstrip("\r\n").split(self.delimiter)]
        surplus = len(parts) - len(self._header)
        image, split = self._position(self._columns.image), self._position(self._columns.split)
        if surplus < 0 or image is None or not (suffix or split is not None):
            return False
        # Texts may have delimiters, so columns behind one are counted from the end.
        images, splits = {parts[image], parts[image + surplus]}, set()
        if split is not None:
            splits = {parts[split].lower(), parts[split + surplus].lower()}
        return (not suffix or any(posixpath.splitext(name)[1].lower() == suffix for name in images)) and (
            split is None or any(name in SPLIT_NAMES for name in splits)
        )

    def lines(self) -> list[str]:
        """Return the notes."""
        notes = []
        if self._several_lines:
            notes.append(
                f"{self.path}: {self._several_lines} rows have a quoted value with line ends, the first in "
                f"{self._first}"
            )
        if self._literal_quotes:
            notes.append(
                f"{self.path}: {self._literal_quotes} rows have a value in quotes, which stay in it; set data.quotes: "
                "double if they only enclose it"
            )
        return notes


class _Recorder:
    """Hands lines on and keeps those that were handed on since `take`."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._taken: list[str] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self._taken.append(line)
        return line

    def take(self) -> list[str]:
        taken, self._taken = self._taken, []
        return taken


def delimited_rows(
    path: Path, lines: Iterable[str], notes: RowNotes
) -> Iterator[tuple[int, Sequence[str], Sequence[str] | DataError | None]]:
    """Yield the header, with None for its row, and then every row: number of its first line, header, values.

    A row with more or fewer values than the header is yielded as an error.

    Args:
        path: The file, for messages.
        lines: Its lines.
        notes: Checks the rows.

    Raises:
        DataError: If quotes of a row are malformed, so that its end is unknown.
    """
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE))
    recorder = _Recorder(lines)
    # Strict: a quote that is never closed, or that text follows, is an error.
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if notes.has_quotes else csv.QUOTE_NONE
    reader = csv.reader(recorder, delimiter=notes.delimiter, quoting=quoting, strict=True)
    header: Sequence[str] | None = None
    while True:
        number = reader.line_num + 1
        recorder.take()
        try:
            row = next(reader, None)
        except csv.Error as error:
            if "field larger" in str(error):
                raise DataError(
                    f"{path}, row {number}: a value is too long, or its quote is never closed; expected at most "
                    f"{MAX_LINE:,} characters"
                ) from error
            raise DataError(
                f"{path}, row {number}: malformed quotes ({error}); expected a text that begins with a quote to be "
                "quoted as a whole, with doubled quotes inside; set data.quotes: none if quotes have no meaning"
            ) from error
        if row is None:
            break
        if header is None:
            header = row
            notes.set_header(header)
            yield number, header, None
            continue
        if not row:  # a blank line
            continue
        if len(row) != len(header):
            yield (
                number,
                header,
                DataError(
                    f"{path}, row {number}: wrong number of values; expected {len(header)} as in the header, got "
                    f"{len(row)}"
                ),
            )
            continue
        notes.check(number, recorder.take(), row)
        yield number, header, row
    if header is None:
        yield 1, (), None
