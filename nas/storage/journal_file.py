"""The journal file of a study: Optuna's format, written by one driver, checked and repaired when it is opened.

Optuna's `JournalFileBackend`, and so optuna-dashboard, reads the same file. This module adds:

- Every line ends with a CRC-32 of all bytes of the file before it, so that a damaged or missing line is found.
- A partial line, left by a crash or a full disk, is cut off before the next append.
- Several records can become durable in one append.
- The file is read once; what this driver has written itself is not read again.
"""

import json
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend, JournalFileSymlinkLock

from nas.common.errors import StudyError
from nas.common.files import sync_directory
from nas.storage.checked_lines import complete_lines, line_with_checksum, read_line, write_all


class Journal(BaseJournalBackend):
    """A journal file for one `optuna.storages.JournalStorage`, which reads every record once and in order.

    Other programs may append through Optuna while it is open, for instance the dashboard; Optuna's lock file prevents
    conflicts. The caller must make sure that this is the only driver.

    Args:
        path: Path of the file, which is created if it is missing, and cut back to its last complete line.
        is_read_only: Whether the file must exist and nothing is changed or written, not even a lock.

    Raises:
        StudyError: If a line is damaged or missing; names the line.
        OSError: If the file cannot be read or written.
    """

    def __init__(self, path: Path, *, is_read_only: bool = False) -> None:
        self.path = path
        self._is_read_only = is_read_only
        self._lock = JournalFileSymlinkLock(str(path))
        self._size = 0  # of the complete lines that were read or written
        self._line_count = 0
        self._checksum = 0
        self._unread: deque[dict[str, Any]] = deque()
        self._read_count = 0
        self._held: list[dict[str, Any]] | None = None
        if not is_read_only:
            # This is the only driver, so an existing lock was left by one that died while it held the lock.
            for left in path.parent.glob(f"{path.name}.lock*"):
                left.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_RDONLY if is_read_only else os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            self._read_appended(descriptor)
            if not is_read_only:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if not is_read_only:
            sync_directory(path.parent)

    @property
    def read_count(self) -> int:
        """The number of lines that the storage has read so far."""
        return self._read_count

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield the records that were not read before; `log_number_from` is always the first of them."""
        del log_number_from
        while self._unread:
            self._read_count += 1
            yield self._unread.popleft()

    def append_logs(self, logs: Sequence[Mapping[str, Any]]) -> None:
        """Make records durable; inside `transaction`, they become durable at its end.

        Raises:
            StudyError: If another program has damaged the file since it was read.
            OSError: If the disk is full or the file cannot be written; the file is unchanged.
        """
        if self._is_read_only:
            raise RuntimeError(f"{self.path}: was opened for reading only")
        if self._held is not None:
            self._held.extend(dict(log) for log in logs)
            return
        try:
            self._append(logs)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Write all records of the block in one append, or none of them if the block raises an error.

        They cannot be read back inside the block.
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
            # Without O_CREAT: an append must fail if the run directory was deleted meanwhile.
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND)
            try:
                self._read_appended(descriptor)
                content, checksum = b"", self._checksum
                for log in logs:
                    line, checksum = line_with_checksum(log, checksum)
                    content += line
                try:
                    write_all(descriptor, content)
                    os.fsync(descriptor)
                except OSError:
                    os.ftruncate(descriptor, self._size)
                    raise
            finally:
                os.close(descriptor)
        finally:
            with suppress(RuntimeError):  # Optuna removes a lock that was held for half a minute, on a slow disk
                self._lock.release()
        self._size += len(content)
        self._line_count += len(logs)
        self._checksum = checksum
        # Converted as if read from the file, so that values do not depend on which program wrote them.
        self._unread.extend(json.loads(line) for line in content.split(b"\n")[:-1])

    def _read_appended(self, descriptor: int) -> None:
        """Read the lines that other programs have appended, and cut off a partial, never acknowledged line."""
        size = os.fstat(descriptor).st_size
        if size == self._size:
            return
        if size < self._size:
            raise StudyError(
                f"{self.path}: was truncated while the search was running; is another process writing to it?"
            )
        os.lseek(descriptor, self._size, os.SEEK_SET)
        with os.fdopen(os.dup(descriptor), "rb") as file:
            content = file.read()
        for line in complete_lines(content):
            self._read_line(line)
        if not content.endswith(b"\n") and not self._is_read_only:
            os.ftruncate(descriptor, self._size)

    def _read_line(self, line: bytes) -> None:
        try:
            record, self._checksum = read_line(line, self._checksum, requires_checksum=False)
        except ValueError as error:
            raise damaged_line(self.path, self._line_count + 1, str(error)) from error
        self._unread.append(record)
        self._line_count, self._size = self._line_count + 1, self._size + len(line)


def damaged_line(path: Path, number: int, reason: str) -> StudyError:
    """Return the error for a journal that cannot be read from a line on, counted from 1."""
    return StudyError(
        f"{path}: line {number} is damaged ({reason}); restore a copy of the file, or keep only the {number - 1} "
        "lines before it and resume with --accept-changed, which restores the rest from the run's own copy"
    )
