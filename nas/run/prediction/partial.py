"""A table under a temporary name, so that a prediction that was killed at any moment can be resumed.

Next to the rows there is a file with their number and size, and with hashes of everything that they depend on. What was
appended after it was last written is cut off and computed again.
"""

import fcntl
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from nas.common.errors import ArgumentError, NasError
from nas.common.files import sync_directory
from nas.common.sealed_json import as_stored, read_sealed_json, write_sealed_json

_SAVE_SECONDS = 2.0


@dataclass(frozen=True)
class Progress:
    """How much of a table is written.

    Args:
        rows: The number of rows.
        size: The number of bytes, those of the header included.
        errors: The number of rows that have an error.
    """

    rows: int = 0
    size: int = 0
    errors: int = 0


class PartialTable:
    """The rows of a table that are written so far; only one process may write a table.

    Args:
        output: The table that it becomes.
        depends_on: Everything that rows depend on, as plain values; rows of an earlier call that depend on something
            else are dropped.
        header: What precedes the first row.

    Raises:
        ArgumentError: If another process writes it.
        OSError: If it cannot be written.
    """

    def __init__(self, output: Path, depends_on: Mapping[str, Any], header: bytes) -> None:
        self.path = output.with_name(f".{output.name}.partial")
        self._state = output.with_name(f".{output.name}.partial.json")
        self._depends_on, self._header = as_stored(depends_on), header
        self._file: BinaryIO = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise ArgumentError(
                f"--output {output}: another process is writing it; expected an output of its own"
            ) from error
        self._saved_at = time.monotonic()
        self.progress = Progress()
        self.has_dropped_rows = self._restore()

    def _restore(self) -> bool:
        """Take up the rows of an earlier call; returns whether there are some that cannot be used."""
        found = self._read_state()
        if found is None or found.size > os.fstat(self._file.fileno()).st_size:
            had_rows = os.fstat(self._file.fileno()).st_size > len(self._header)
            self._start()
            return had_rows
        self.progress = found
        self._cut()
        return False

    def _read_state(self) -> Progress | None:
        def build(values: dict[str, Any]) -> Progress | None:
            progress = Progress(**values["progress"])
            return progress if values["depends_on"] == self._depends_on else None

        try:
            return read_sealed_json(self._state, build, expected="the state of a prediction", remedy="delete it")
        except NasError:  # missing, or damaged
            return None

    def _start(self) -> None:
        self.progress = Progress()
        self._cut()
        self._file.write(self._header)
        self.progress = Progress(size=len(self._header))
        self.save()

    def _cut(self) -> None:
        self._file.truncate(self.progress.size)
        self._file.seek(self.progress.size)

    def append(self, content: bytes, *, rows: int, errors: int) -> None:
        """Append rows, which are durable soon.

        Args:
            content: The rows.
            rows: Their number.
            errors: The number of those that have an error.
        """
        self._file.write(content)
        done = self.progress
        self.progress = Progress(done.rows + rows, done.size + len(content), done.errors + errors)
        if time.monotonic() - self._saved_at >= _SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Make all rows so far durable."""
        self._file.flush()
        os.fsync(self._file.fileno())
        write_sealed_json(self._state, {"depends_on": self._depends_on, "progress": asdict(self.progress)})
        self._saved_at = time.monotonic()

    def remove(self) -> None:
        """Delete what is left once the output is written."""
        self.path.unlink(missing_ok=True)
        self._state.unlink(missing_ok=True)
        sync_directory(self.path.parent)

    def __enter__(self) -> "PartialTable":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self.path.exists() and not issubclass(kind, OSError):
            self.save()
        self._file.close()
