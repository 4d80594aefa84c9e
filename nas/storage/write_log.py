"""Log of everything that a study has stored, kept in the run directory: a second copy, written after the study itself.

A journal that was cut at the end of a line or replaced by an older copy looks whole, and so does a database that lost
rows. The log shows what is missing or different, and missing records can be restored from it. It may lag behind the
study by what a kill or a power failure leaves, but never runs ahead: a line is written once the study has stored the
record durably. It protects against accidents, not against an attacker, who can write the log as well.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nas.common.boundary import check_regular_file, reading, reason_of
from nas.common.errors import StudyError
from nas.common.files import write_atomically
from nas.storage.checked_lines import complete_lines, line_with_checksum, read_line, write_all

WRITE_LOG = "writes.log"
SUPERNET_KEY = "supernet"
"""The key of the one record that a study replaces: by another supernet, until there are scores."""

_FORMAT = 1

Records = dict[str, dict[str, Any]]
"""Everything that a study holds, in the order in which it was stored: `result full 3` → the values of that result."""


@dataclass
class LoggedWrites:
    """The content of a log.

    Args:
        records: The records, up to the first damaged line.
        size: The number of bytes of these lines.
        checksum: The checksum of these bytes.
        problem: Why the log cannot be relied on, as the rest of a sentence about it; None if it is whole.
    """

    records: Records = field(default_factory=dict)
    size: int = 0
    checksum: int = 0
    problem: str | None = None


def read_write_log(path: Path, name: str) -> LoggedWrites:
    """Read a log without changing it; a partial last line, which a kill leaves, is ignored.

    Args:
        path: The file.
        name: The name of the run.

    Raises:
        StudyError: If it cannot be read, or belongs to another run.
    """
    logged = LoggedWrites()
    if not path.exists():
        logged.problem = "is missing"
        return logged
    expected = "the log of a study"
    check_regular_file(path, expected=expected, error=StudyError)
    with reading(path, expected=expected, error=StudyError):
        content = path.read_bytes()
    run = None
    for number, line in enumerate(complete_lines(content), start=1):
        try:
            record, checksum = read_line(line, logged.checksum, requires_checksum=True)
            if number == 1:
                run = _header(record)
            else:
                key, values = record["key"], record["values"]
                if not isinstance(key, str) or not isinstance(values, dict):
                    raise ValueError("it holds no record")
                logged.records[key] = values
        except (ValueError, KeyError) as error:
            logged.problem = f"is damaged in line {number} ({reason_of(error)})"
            break
        logged.size, logged.checksum = logged.size + len(line), checksum
    if run is None and logged.problem is None:
        logged.problem = "is empty"
    if run not in (None, name):
        raise StudyError(f"{path}: belongs to another run; expected {name!r}, got {run!r}; restore a copy of the file")
    return logged


def _header(record: Mapping[str, Any]) -> str:
    if record["format"] != _FORMAT:
        raise ValueError(f"format {record['format']!r}, expected {_FORMAT}")
    return str(record["run"])


def as_text(values: Mapping[str, Any]) -> str:
    """Return a canonical text of a record; equal records have equal texts, also with NaN among their values."""
    return json.dumps(values, sort_keys=True)


class WriteLog:
    """A log that is open for writing.

    A line that cannot be written, on a full disk, is kept and written with the next one: the study has it already.

    Args:
        path: The file.
        name: The name of the run.
        logged: Its content; None to write it again.
        records: What the study holds: what the log lacks is appended.

    Raises:
        OSError: If the file cannot be created or opened.
    """

    def __init__(self, path: Path, name: str, logged: LoggedWrites | None, records: Records) -> None:
        self._path = path
        if logged is None:
            content, checksum = line_with_checksum({"format": _FORMAT, "run": name}, 0)
            logged = LoggedWrites(size=len(content), checksum=checksum)
            for key, values in records.items():
                line, logged.checksum = line_with_checksum({"key": key, "values": values}, logged.checksum)
                content += line
            logged.size, logged.records = len(content), records
            write_atomically(path, content)
        self._size, self._checksum = logged.size, logged.checksum
        self._waiting = b""
        # Without O_CREAT: the run directory may have been deleted meanwhile.
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        with suppress(OSError):
            os.ftruncate(self._descriptor, self._size)  # a partial line
        for key, values in records.items():
            if key not in logged.records or (key == SUPERNET_KEY and values != logged.records[key]):
                self.append(key, values)
        self._sync()

    def append(self, key: str, values: Mapping[str, Any]) -> None:
        """Add a record that the study has stored durably.

        Args:
            key: The key of the record.
            values: Its values, as JSON can store them.
        """
        line, self._checksum = line_with_checksum({"key": key, "values": values}, self._checksum)
        self._waiting += line
        with suppress(OSError):
            try:
                write_all(self._descriptor, self._waiting)
            except OSError:
                os.ftruncate(self._descriptor, self._size)
                raise
            self._size += len(self._waiting)
            self._waiting = b""

    def _sync(self) -> None:
        with suppress(OSError):
            os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Make the log durable and close it."""
        self._sync()
        os.close(self._descriptor)
