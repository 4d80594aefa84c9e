"""One driver per study: a lease with a named holder, renewed by a heartbeat.

The record of the holder is stored with the study: in a file of the run directory, or in the database, which two run
directories or two hosts may open. A driver that finds a record decides as follows.

- If the holder ran on this host since it was booted, its process is looked up by number and start time, because the
  system reuses numbers. While it is alive the lease is refused; otherwise it is taken over at once. For a file, the
  system's lock (`flock`) does the same for all processes of a host; the system releases it when its holder dies.
- If the holder ran on another host, file locks may have no effect and clocks may differ, so this host watches the
  record by its own clock. If the beat changes, the holder is alive; if it does not for `STALE_SECONDS`, the lease is
  taken over.

To take a lease over, a driver overwrites the record that it has judged, waits until any other driver that did the same
has written as well, and reads the record again: the last one to write holds the lease, the others find another token. A
holder whose record was overwritten nevertheless, because it was suspended for a minute, finds out from `check`, at the
latest at its next beat.
"""

import fcntl
import getpass
import json
import os
import socket
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path

from nas.common.errors import StudyError

BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0
_DOUBT_SECONDS = 45.0  # after this time without a renewal, a holder checks its record before it writes
_SETTLE_SECONDS = 0.5  # far longer than the time between reading a record and overwriting it
_RECORD_BYTES = 1024


@dataclass(frozen=True)
class Holder:
    """The holder of a lease.

    Args:
        token: A string that differs between any two leases.
        user: The login name.
        host: The name of the host.
        boot: A string that differs between two starts of the host's system, and between two containers on it.
        process: The number of the process.
        process_start: The start time of the process, in ticks since boot; it distinguishes processes with one number.
        started: The time at which the lease was taken, in ISO 8601.
        beat: The number of renewals.
    """

    token: str
    user: str
    host: str
    boot: str
    process: int
    process_start: int
    started: str
    beat: int = 0

    @classmethod
    def current(cls) -> "Holder":
        """Return this process as a holder, with a new token."""
        start = process_start(os.getpid())
        assert start is not None
        return cls(
            token=uuid.uuid4().hex,
            user=_user(),
            host=socket.gethostname(),
            boot=_boot(),
            process=os.getpid(),
            process_start=start,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    @classmethod
    def from_dict(cls, values: object) -> "Holder | None":
        """Return a stored holder; None for an empty or damaged record, which a crash can leave."""
        types = {field.name: field.type for field in fields(cls)}
        is_holder = isinstance(values, dict) and {name: type(value) for name, value in values.items()} == types
        return cls(**values) if is_holder else None  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"user {self.user} on host {self.host}, process {self.process}, since {self.started}"


def process_start(process: int) -> int | None:
    """Return the start time of a process of this host, in ticks since boot; None if it does not exist or has ended."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *rest = text[text.rindex(")") + 2 :].split()  # the name in parentheses may contain any character
    return None if state in "ZX" else int(rest[18])


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in containers
        return str(os.getuid())


def _boot() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"


class LeaseRecord(ABC):
    """The stored record of a lease."""

    is_exclusive: bool
    """Whether no other process of this host can take the lease while the record is open."""

    @abstractmethod
    def read(self) -> Holder | None:
        """Return the holder; None if the lease is free."""

    @abstractmethod
    def write(self, holder: Holder | None) -> None:
        """Replace the holder; None frees the lease."""

    @abstractmethod
    def has_ended(self, holder: Holder) -> bool | None:
        """Return whether another holder has certainly ended; None if only its heartbeat can show that."""

    @abstractmethod
    def close_thread(self) -> None:
        """Release the resources that the calling thread, which is about to end, uses to access the record."""


class LockFile(LeaseRecord):
    """A file that the operating system locks for this process while it is open.

    Args:
        path: Path of the file, which is created if it is missing.

    Raises:
        StudyError: If another process, or another study of this process, holds the lock; names the holder.
        OSError: If the file cannot be opened.
    """

    is_exclusive = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = self.read()
            os.close(self._descriptor)
            raise refusal(str(path.parent), holder) from error

    def read(self) -> Holder | None:
        try:
            return Holder.from_dict(json.loads(os.pread(self._descriptor, _RECORD_BYTES, 0)))
        except (ValueError, RecursionError):
            return None

    def write(self, holder: Holder | None) -> None:
        # Written in place, because a new file would not be the locked one; with a fixed size, to fit on a full disk.
        text = "" if holder is None else json.dumps(asdict(holder))
        try:
            os.pwrite(self._descriptor, text.encode().ljust(_RECORD_BYTES - 1) + b"\n", 0)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error

    def has_ended(self, holder: Holder) -> bool | None:
        # This process has the lock now, so a holder on this host has released it, also if it ran before a restart.
        return True if holder.host == socket.gethostname() else None

    def close_thread(self) -> None:
        """Do nothing: the file belongs to the whole process."""

    def close(self) -> None:
        """Release the lock."""
        os.close(self._descriptor)


class Lease:
    """The right to write to a study, from `take` to `release`; a thread renews it.

    Args:
        record: The record of the holder.
        study: The name of the study in messages.
        clock: Clock in seconds, which must not stop while the machine is suspended.
        sleep: Function that waits for a number of seconds.
        note: Callback that receives a line of text before a holder on another host is watched, which takes a minute.
    """

    def __init__(
        self,
        *,
        record: LeaseRecord,
        study: str,
        clock: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        sleep: Callable[[float], object] = time.sleep,
        note: Callable[[str], object] = lambda text: None,
    ) -> None:
        self._record = record
        self._study = study
        self._clock = clock
        self._sleep = sleep
        self._note = note
        self._mine = Holder.current()
        self._renewed_at = -STALE_SECONDS
        self._taken_by: Holder | None = None
        self._is_lost = False
        self._guard = threading.Lock()  # renewals are made by the thread, and by writers after a long pause
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def take(self) -> bool:
        """Take the lease and start to renew it.

        Returns:
            Whether an earlier holder has died instead of releasing it.

        Raises:
            StudyError: If another driver holds it; names the holder.
        """
        found = self._record.read()
        if found is not None:
            has_ended = self._record.has_ended(found)
            if has_ended is None:
                self._watch(found)
            elif not has_ended:
                raise refusal(self._study, found)
        self._renewed_at = self._clock()
        self._record.write(self._mine)
        if not self._record.is_exclusive or (found is not None and found.boot != self._mine.boot):
            self._sleep(_SETTLE_SECONDS)
            first = self._record.read()
            if first is None or first.token != self._mine.token:
                raise refusal(self._study, first)
        self._thread.start()
        return found is not None

    def _watch(self, found: Holder) -> None:
        """Wait for a heartbeat of a holder on another host, as long as a living one can be silent."""
        self._note(f"run: held by {found}; waiting up to {STALE_SECONDS:.0f} s for a heartbeat")
        deadline = self._clock() + STALE_SECONDS
        while self._clock() < deadline:
            self._sleep(1.0)
            now = self._record.read()
            if now is None:
                return  # released meanwhile
            if (now.token, now.beat) != (found.token, found.beat):
                raise refusal(self._study, now)

    def check(self) -> None:
        """Make sure that this driver may write.

        Raises:
            StudyError: If another driver has taken the lease over, or the record cannot be read.
        """
        if self._clock() - self._renewed_at > _DOUBT_SECONDS and not self._is_lost:
            try:
                self.renew()
            except Exception as error:  # files and databases raise different errors
                raise StudyError(
                    f"{self._study}: the lock of this run could not be renewed for {_DOUBT_SECONDS:.0f} s ({error}), "
                    "so another driver may have taken it over; resume the run to continue"
                ) from error
        if self._is_lost:
            raise StudyError(
                f"{self._study}: this driver did not renew its lock, and its run was taken over by "
                f"{self._taken_by or 'a driver that has ended since'}; nothing more is written"
            )

    def renew(self) -> None:
        """Write the next heartbeat, or find out that the lease is lost; the thread of the lease calls this."""
        with self._guard:
            if self._is_lost:
                return
            now = self._clock()
            found = self._record.read()
            if found is None or found.token != self._mine.token:
                self._taken_by, self._is_lost = found, True
                return
            self._mine = replace(self._mine, beat=self._mine.beat + 1)
            self._record.write(self._mine)
            self._renewed_at = now

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS) and not self._is_lost:
            try:
                self.renew()
            except Exception:  # a full disk, a server that is down: `check` reports it if it lasts
                continue
        self._record.close_thread()

    def release(self) -> None:
        """Release the lease, so that another driver may take it at once."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(BEAT_SECONDS)
        # If this fails, on a full disk or without the server, the record later counts as that of a dead driver.
        with self._guard, suppress(Exception):
            found = self._record.read()
            if found is not None and found.token == self._mine.token:
                self._record.write(None)


def refusal(study: str, holder: Holder | None) -> StudyError:
    """Return the error for a second driver.

    Args:
        study: The name of the study.
        holder: The first driver; None if it has not written its record yet.
    """
    first = "which has just started" if holder is None else str(holder)
    return StudyError(f"{study}: another driver is working on this run ({first}); wait until it ends, or end it")


def has_process_ended(holder: Holder) -> bool | None:
    """Return whether a holder's process has ended.

    Returns:
        None if it did not run on this host since the system started, or if the system hides it.
    """
    if holder.boot != _boot():
        return None
    start = process_start(holder.process)
    if start is None and _is_hidden(holder.process):
        return None
    return start != holder.process_start


def _is_hidden(process: int) -> bool:
    """Return whether the system hides another user's process (`hidepid`)."""
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except ProcessLookupError:
        pass
    return False
