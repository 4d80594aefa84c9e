"""The journal file of a study: Optuna's own format, appended to by one driver, checked and repaired when it is opened.

Optuna's `JournalFileBackend`, and so optuna-dashboard, reads the same file. What is added here:

- Every line ends with a CRC-32 of all that stands before it in the file, so that a damaged or a missing line is found.
- A partial line, left by a crash or by a full disk, is cut off before anything is appended after it.
- Several records can be made durable by one append.
- The file is read once; what this driver wrote itself is not read again.
"""

import json
import os
import re
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend, JournalFileSymlinkLock

from nas.common.errors import StudyError
from nas.common.files import sync_directory

_CHECKSUM = re.compile(rb',"crc32":(\d+)\}\n\Z')


class Journal(BaseJournalBackend):
    """One journal file, for one `optuna.storages.JournalStorage`, which reads every record once and in order.

    Others may append through Optuna while it is open (a note written in the dashboard): Optuna's lock file keeps them
    apart. The caller sees to it that this is the only driver.

    Args:
        path: The file; made if it is missing, cut back to its last complete line if a crash left half of one.

    Raises:
        StudyError: If a line is damaged or missing; names the line.
        OSError: If the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = JournalFileSymlinkLock(str(path))
        # No other driver works here, so a lock of the file was left by one that died while it took it or let it go.
        for left in path.parent.glob(f"{path.name}.lock*"):
            left.unlink(missing_ok=True)
        self._size = 0  # of what has been read or written: whole lines
        self._line_count = 0
        self._checksum = 0
        self._unread: deque[dict[str, Any]] = deque()
        self._read_count = 0
        self._held: list[dict[str, Any]] | None = None
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            self._catch_up(descriptor)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_directory(path.parent)

    @property
    def read_count(self) -> int:
        """Lines that the storage has been given so far."""
        return self._read_count

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The records that were not read before; `log_number_from` is the first of them, since one storage reads."""
        del log_number_from
        while self._unread:
            self._read_count += 1
            yield self._unread.popleft()

    def append_logs(self, logs: Sequence[Mapping[str, Any]]) -> None:
        """Make records durable; inside `together`, its end does so.

        Raises:
            StudyError: If somebody else damaged the file meanwhile.
            OSError: If the disk is full or the file cannot be written; what is there stays as it was.
        """
        if self._held is not None:
            self._held.extend(dict(log) for log in logs)
            return
        try:
            self._append(logs)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    @contextmanager
    def together(self) -> Iterator[None]:
        """Write the records of everything inside by one append; none of them if an error is raised inside.

        Nothing of it can be read back inside.
        """
        self._held = []
        try:
            yield
            held, self._held = self._held, None
            self.append_logs(held)
        finally:
            self._held = None

    def _append(self, logs: Sequence[Mapping[str, Any]]) -> None:
        self._lock.acquire()
        try:
            # Without O_CREAT: in a run directory that was deleted meanwhile, nothing may seem to be kept.
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND)
            try:
                self._catch_up(descriptor)
                content, checksum = b"", self._checksum
                for log in logs:
                    line, checksum = _with_checksum(log, checksum)
                    content += line
                try:
                    _write_durably(descriptor, content)
                except OSError:
                    os.ftruncate(descriptor, self._size)
                    raise
            finally:
                os.close(descriptor)
        finally:
            with suppress(RuntimeError):  # Optuna takes a lock away that was held for half a minute, by a slow disk
                self._lock.release()
        self._size += len(content)
        self._line_count += len(logs)
        self._checksum = checksum
        # As Optuna would read them: what JSON turns into something else must not depend on who wrote it.
        self._unread.extend(json.loads(line) for line in content.split(b"\n")[:-1])

    def _catch_up(self, descriptor: int) -> None:
        """Read what was appended by others, and cut off half a line: nothing in it had been acknowledged."""
        size = os.fstat(descriptor).st_size
        if size == self._size:
            return
        if size < self._size:
            raise StudyError(f"{self.path}: has become shorter while the search was running; who writes there?")
        os.lseek(descriptor, self._size, os.SEEK_SET)
        with os.fdopen(os.dup(descriptor), "rb") as file:
            content = file.read()
        complete = content.rfind(b"\n") + 1
        for line in content[:complete].split(b"\n")[:-1]:  # not splitlines, which ends lines at b"\r" too
            self._read_line(line + b"\n")
        if complete < len(content):
            os.ftruncate(descriptor, self._size)

    def _read_line(self, line: bytes) -> None:
        number = self._line_count + 1
        checksum = zlib.crc32(line, self._checksum)
        found = _CHECKSUM.search(line)
        if found is not None and int(found[1]) != zlib.crc32(line[: found.start()], self._checksum):
            raise self._damaged(number, "its checksum does not fit it and the lines before it: one was changed or lost")
        try:
            record = json.loads(line)
        except ValueError as error:  # of the decoding too
            raise self._damaged(number, f"not JSON: {error}") from error
        if not isinstance(record, dict):
            raise self._damaged(number, "not a record of Optuna")
        self._unread.append(record)
        self._line_count, self._checksum, self._size = number, checksum, self._size + len(line)

    def _damaged(self, number: int, reason: str) -> StudyError:
        return damaged_line(self.path, number, reason)


def damaged_line(path: Path, number: int, reason: str) -> StudyError:
    """What to say of a journal that cannot be read from a line on (counted from 1)."""
    return StudyError(
        f"{path}: line {number} is damaged ({reason}); put back a copy of the file, or keep only the {number - 1} "
        "lines before it to go on from there"
    )


def _with_checksum(log: Mapping[str, Any], checksum: int) -> tuple[bytes, int]:
    """A record as a line, and the checksum of the file with it."""
    text = json.dumps(log, separators=(",", ":")).encode()[:-1]
    checksum = zlib.crc32(text, checksum)
    end = b',"crc32":%d}\n' % checksum
    return text + end, zlib.crc32(end, checksum)


def _write_durably(descriptor: int, content: bytes) -> None:
    written = 0
    while written < len(content):  # a disk that fills up takes a part before it refuses
        written += os.write(descriptor, content[written:])
    os.fsync(descriptor)
