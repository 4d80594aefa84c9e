"""Read the lines of a text file of any size and encoding."""

import codecs
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import BinaryIO

from nas.common.boundary import shown
from nas.common.errors import DataError

MAX_LINE = 2**26
"""Characters of a line: a whole web page fits, and a file without line ends is noticed before it fills the memory."""

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class Lines:
    """Iterates over the lines of a file, with their line ends: UTF-8, or UTF-16 and UTF-32 with a byte order mark.

    Args:
        path: The file, for messages.
        file: The opened file, at its start.

    Raises:
        DataError: While iterating, if a line is no text, or longer than `MAX_LINE`; names the row.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        start = file.read(4)
        file.seek(0)
        self.encoding = next((name for mark, name in _MARKS if start.startswith(mark)), "utf-8-sig")
        # All of \n, \r\n and \r end a line, and stay as they are.
        self._text = TextIOWrapper(file, encoding=self.encoding, newline="")

    def __iter__(self) -> Iterator[str]:
        number = 1
        while line := self._line(number):
            if "\0" in line:
                raise DataError(
                    f"{self._path}, row {number}: has a null character; expected text in UTF-8, or in UTF-16 with a "
                    f"byte order mark, got {shown(line)}"
                )
            yield line
            number += 1

    def _line(self, number: int) -> str:
        try:
            line = self._text.readline(MAX_LINE)
        except UnicodeDecodeError as error:
            name = self.encoding.upper().removesuffix("-SIG")
            raise DataError(
                f"{self._path}: the manifest cannot be read: {name} has no such byte, in row {number} or shortly "
                f"after; expected text in UTF-8, or in UTF-16 with a byte order mark, got "
                f"{error.object[error.start : error.start + 1]!r}; convert it, as with iconv -f CP1252 -t UTF-8"
            ) from error
        except OSError as error:
            raise DataError(f"{self._path}, row {number}: cannot be read: {error.strerror or error}") from error
        if len(line) >= MAX_LINE:
            raise DataError(
                f"{self._path}, row {number}: is too long; expected a line of at most {MAX_LINE:,} characters"
            )
        return line
