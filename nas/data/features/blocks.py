"""Which blocks of a feature build are claimed, and which are finished, for all processes that build one store.

A block is claimed with a file lock, which the operating system releases when its holder dies, on this machine or, where
the file system is shared, on another. It is finished when a record of it is on disk: its rows in every array, with
their checksums. Every process appends to a file of its own, so that none waits for another.

Where locks do not hold between machines, as on some network file systems, two processes may compute the same block:
they write the same rows.
"""

import contextlib
import json
import os
import shutil
import socket
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from nas.common.files import sync_directory
from nas.data.features.encode import EncodedRows
from nas.data.features.writer import ArrayFiles

SAVE_SECONDS = 10.0
_REFRESH_SECONDS = 1.0
_FOLDER = "blocks"
_FINISHED, _LOCK = ".finished", ".lock"


@dataclass
class BlockRecord:
    """The rows that a block has in every array.

    Args:
        block: Index of the block.
        parts: First row, size in bytes, and CRC-32 of these rows, by array name.
    """

    block: int
    parts: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    def add(self, rows: EncodedRows) -> None:
        """Count rows that follow those of the same array added before."""
        first, size, checksum = self.parts.get(rows.name, (rows.first_row, 0, 0))
        content = rows.values.data.cast("B")
        self.parts[rows.name] = (first, size + len(content), zlib.crc32(content, checksum))

    def is_intact(self, files: ArrayFiles) -> bool:
        """Return whether the files hold these rows."""
        return all(files.checksum(name, row, size) == checksum for name, (row, size, checksum) in self.parts.items())


class BlockBoard:
    """Claims and records of the blocks of one build.

    Args:
        directory: The folder of the build.
    """

    def __init__(self, directory: Path) -> None:
        self._folder = directory / _FOLDER
        name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}{_FINISHED}"
        self._own = self._folder / name
        self._read_bytes: dict[str, int] = {}
        self._records: dict[int, list[BlockRecord]] = {}
        self._recorded_here: set[int] = set()
        self._locks: dict[int, FileLock] = {}
        self._mutex = threading.RLock()
        self._refreshed = -_REFRESH_SECONDS
        self.refresh()

    @staticmethod
    def create(directory: Path) -> None:
        """Create the folder of claims and records in the folder of a new build."""
        (directory / _FOLDER).mkdir()
        sync_directory(directory)

    @staticmethod
    def delete(directory: Path) -> None:
        """Delete the folder of claims and records."""
        shutil.rmtree(directory / _FOLDER, ignore_errors=True)

    @property
    def finished(self) -> Collection[int]:
        """The blocks that a process has recorded, as of the last refresh."""
        return self._records.keys()

    @property
    def received(self) -> Mapping[int, Sequence[BlockRecord]]:
        """The records of the blocks that this process has not recorded itself."""
        return {block: records for block, records in self._records.items() if block not in self._recorded_here}

    def refresh_if_due(self) -> None:
        """Read what other processes have recorded, if that was not done within the last second."""
        if time.monotonic() - self._refreshed >= _REFRESH_SECONDS:
            self.refresh()

    def refresh(self) -> None:
        """Read what other processes have recorded."""
        with self._mutex:
            self._refreshed = time.monotonic()
            for path in self._folder.glob(f"*{_FINISHED}"):
                if path != self._own:
                    self._read(path)

    def _read(self, path: Path) -> None:
        start = self._read_bytes.get(path.name, 0)
        with path.open("rb") as file:
            file.seek(start)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]  # the last line may still be written
        self._read_bytes[path.name] = start + len(whole)
        for line in whole.splitlines():
            record = _record(line)
            if record is not None:
                self._records.setdefault(record.block, []).append(record)

    def claim(self, candidates: Iterable[int]) -> int | None:
        """Claim a block that no process has finished or claimed; None if there is none.

        Args:
            candidates: The blocks in the order of preference.
        """
        with self._mutex:
            for block in candidates:
                if block in self._records or block in self._locks:
                    continue
                lock = FileLock(self._folder / f"{block}{_LOCK}", thread_local=False)
                with contextlib.suppress(Timeout):
                    lock.acquire(blocking=False)
                    self.refresh()  # another process may have finished it just before
                    if block in self._records:
                        lock.release()
                        continue
                    self._locks[block] = lock
                    return block
        return None

    def record(self, records: Sequence[BlockRecord]) -> None:
        """Record finished blocks, whose rows are on disk, and release them.

        Args:
            records: Their records.
        """
        is_new = not self._own.exists()
        with self._own.open("ab") as file:
            for record in records:
                file.write(json.dumps(asdict(record)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            sync_directory(self._folder)
        with self._mutex:
            for record in records:
                self._records[record.block] = [record]
                self._recorded_here.add(record.block)
                self._release(record.block)

    def forget(self, blocks: Iterable[int]) -> None:
        """Take blocks as unfinished, because their rows are not on disk."""
        with self._mutex:
            for block in blocks:
                del self._records[block]

    def close(self) -> None:
        """Give up the blocks that this process has claimed and not finished."""
        with self._mutex:
            for block in list(self._locks):
                self._release(block)

    def _release(self, block: int) -> None:
        lock = self._locks.pop(block, None)
        if lock is not None:
            lock.release()


def _record(line: bytes) -> BlockRecord | None:
    """Return the record in a line; None for a line that a power failure has damaged."""
    try:
        values = json.loads(line)
        parts = {str(name): (int(row), int(size), int(sum_)) for name, (row, size, sum_) in values["parts"].items()}
        return BlockRecord(int(values["block"]), parts)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


class BlockSaver(contextlib.AbstractContextManager["BlockSaver"]):
    """Makes finished blocks durable in a background thread: flushes the files, then records the blocks written before.

    Args:
        files: The files to flush.
        record: Records blocks durably.
    """

    def __init__(self, files: ArrayFiles, record: Callable[[Sequence[BlockRecord]], None]) -> None:
        self._files, self._record = files, record
        self._pool = ThreadPoolExecutor(1)
        self._waiting: list[BlockRecord] = []
        self._mutex = threading.Lock()
        self._running: Future[None] | None = None
        self._last = time.monotonic()

    def add(self, record: BlockRecord) -> None:
        """Save a block whose rows are written, and others before it, if the interval has passed since the last save."""
        with self._mutex:
            self._waiting.append(record)
            if time.monotonic() - self._last < SAVE_SECONDS or (self._running and not self._running.done()):
                return
            if self._running:
                self._running.result()  # raises the error of the last save, if any
            self._last = time.monotonic()
            self._running = self._pool.submit(self._save)

    def finish(self) -> None:
        """Save, and wait until all blocks are durable."""
        if self._running:
            self._running.result()
        self._save()

    def _save(self) -> None:
        with self._mutex:
            records, self._waiting = self._waiting, []
        if records:
            self._files.sync()
            self._record(records)

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown()
