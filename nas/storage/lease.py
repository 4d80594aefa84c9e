"""One driver per study: a lease that names its holder and is renewed by a heartbeat.

A record (`Holder`) lies where the study lies: in a file of the run directory, or in the study itself if that is in a
database, which two run directories or two hosts may open. Who finds one decides as follows.

- Its holder ran on this host since it was booted: the process is looked up (by number and start time, since numbers are
  given again). Alive, it is respected; gone, the lease is taken over at once. With a file, the system's own lock on it
  (`flock`) says the same for all processes of a host, and is let go by the system when its holder dies.
- Its holder ran elsewhere: file locks may not hold between hosts, and their clocks may differ. So the record is
  watched, by this host's clock: if its beat changes, the holder lives; if not for `STALE_SECONDS`, it is taken over.

Taking over is: write one's own record over exactly the one that was judged, wait until whoever did the same at the same
time has written too, and read again; the last one to write has it, all others find a stranger's token. A holder whose
record was overwritten nevertheless (it was suspended for a minute) learns that from `check`, at the next beat at the
latest.
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
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from nas.common.errors import StudyError

BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0
_DOUBT_SECONDS = 45.0  # unrenewed for so long, a holder asks before it writes: by 60 it may have been taken over
_SETTLE_SECONDS = 0.5  # far more than passes between reading a record and writing over it
_RECORD_BYTES = 1024


@dataclass(frozen=True)
class Holder:
    """Who holds a lease.

    Args:
        token: Different for every lease taken.
        user: Login name.
        host: Its name.
        boot: Different for every start of the host's system and for every container in it.
        process: Number of the process.
        process_start: When it started, in the system's ticks since boot; tells processes of one number apart.
        started: When the lease was taken, ISO 8601.
        beat: Counts up as long as the holder lives.
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
    def here(cls) -> "Holder":
        """This process, with a new token."""
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
        """A record as it was found; None for an empty or a damaged one, which a crash can leave."""
        try:
            return cls(**values)  # type: ignore[arg-type]
        except TypeError:
            return None

    def __str__(self) -> str:
        return f"user {self.user} on host {self.host}, process {self.process}, since {self.started}"


def process_start(process: int) -> int | None:
    """When a process of this host started, in ticks since boot; None if there is none, or one that has ended."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *rest = text[text.rindex(")") + 2 :].split()  # the name before it may hold anything
    return None if state in "ZX" else int(rest[18])


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as in containers
        return str(os.getuid())


def _boot() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"


class Place(ABC):
    """Where the record of a lease lies."""

    is_exclusive: bool
    """Whether nobody else of this host can be taking the lease as long as the place is open."""

    @abstractmethod
    def read(self) -> Holder | None:
        """The record; None if nobody holds the lease."""

    @abstractmethod
    def write(self, holder: Holder | None) -> None:
        """Replace the record."""

    @abstractmethod
    def is_gone(self, holder: Holder) -> bool | None:
        """Whether a holder, other than the caller, has certainly ended; None if only its heartbeat can tell."""

    @abstractmethod
    def leave_thread(self) -> None:
        """Let go of what the calling thread, which ends, holds to reach the place."""


class LockFile(Place):
    """A file, locked by the system for as long as it is open.

    Args:
        path: Made if it is missing.

    Raises:
        StudyError: If another process, or another study of this one, has it open; names that one.
        OSError: If it cannot be opened.
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
        except ValueError:
            return None

    def write(self, holder: Holder | None) -> None:
        # In place and of one size: another file of this name would not be the locked one, and a full disk takes it.
        text = "" if holder is None else json.dumps(asdict(holder))
        try:
            os.pwrite(self._descriptor, text.encode().ljust(_RECORD_BYTES - 1) + b"\n", 0)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error

    def is_gone(self, holder: Holder) -> bool | None:
        # A holder on this host had the lock that is held here now, so it has let go; also if it ran before a restart.
        return True if holder.host == socket.gethostname() else None

    def leave_thread(self) -> None:
        """Nothing: the file is the whole process's."""

    def close(self) -> None:
        """Let another process have the file."""
        os.close(self._descriptor)


class Lease:
    """The right to write to a study, from `take` to `release`; renewed in a thread of its own.

    Args:
        place: Of the record.
        study: Names the study in messages.
        clock: Seconds, which go on while the machine sleeps.
        sleep: Waits for some seconds.
        note: Told when a holder elsewhere has to be watched, which takes a minute.
    """

    def __init__(
        self,
        *,
        place: Place,
        study: str,
        clock: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        sleep: Callable[[float], object] = time.sleep,
        note: Callable[[str], object] = lambda text: None,
    ) -> None:
        self._place = place
        self._study = study
        self._clock = clock
        self._sleep = sleep
        self._note = note
        self._mine = Holder.here()
        self._renewed_at = -STALE_SECONDS
        self._taken_by: Holder | None = None
        self._is_lost = False
        self._guard = threading.Lock()  # of renewals: by the thread, and by whoever writes after a long pause
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, name="lease", daemon=True)

    def take(self) -> bool:
        """Take the lease, and from here on renew it.

        Returns:
            Whether another driver had it and died, instead of giving it back.

        Raises:
            StudyError: If another driver has it; names that one.
        """
        found = self._place.read()
        if found is not None:
            is_gone = self._place.is_gone(found)
            if is_gone is None:
                self._watch(found)
            elif not is_gone:
                raise refusal(self._study, found)
        self._renewed_at = self._clock()
        self._place.write(self._mine)
        if not self._place.is_exclusive or (found is not None and found.boot != self._mine.boot):
            self._sleep(_SETTLE_SECONDS)
            first = self._place.read()
            if first is None or first.token != self._mine.token:
                raise refusal(self._study, first)
        self._thread.start()
        return found is not None

    def _watch(self, found: Holder) -> None:
        """Wait until a holder elsewhere has shown that it lives, or had every chance to."""
        self._note(f"the run was left by {found}; waiting up to {STALE_SECONDS:.0f} s for a sign of life")
        deadline = self._clock() + STALE_SECONDS
        while self._clock() < deadline:
            self._sleep(1.0)
            now = self._place.read()
            if now is None:
                return  # given back meanwhile
            if (now.token, now.beat) != (found.token, found.beat):
                raise refusal(self._study, now)

    def check(self) -> None:
        """Make sure that this driver may write.

        Raises:
            StudyError: If another driver has taken the lease over, or nobody can say.
        """
        if self._clock() - self._renewed_at > _DOUBT_SECONDS and not self._is_lost:
            try:
                self.renew()
            except Exception as error:  # whatever the place raises: files and databases have little in common
                raise StudyError(
                    f"{self._study}: the lock of this run could not be renewed for {_DOUBT_SECONDS:.0f} s ({error}), "
                    "so another driver may have taken it over; resume the run to go on"
                ) from error
        if self._is_lost:
            raise StudyError(
                f"{self._study}: this driver was taken for dead, and its run was taken over by "
                f"{self._taken_by or 'a driver that has given it back since'}; nothing more is written here"
            )

    def renew(self) -> None:
        """Show a sign of life, or learn that the lease is lost; called by the lease's own thread."""
        with self._guard:
            if self._is_lost:
                return
            now = self._clock()
            found = self._place.read()
            if found is None or found.token != self._mine.token:
                self._taken_by, self._is_lost = found, True
                return
            self._mine = replace(self._mine, beat=self._mine.beat + 1)
            self._place.write(self._mine)
            self._renewed_at = now

    def _keep_beating(self) -> None:
        while not self._ended.wait(BEAT_SECONDS) and not self._is_lost:
            try:
                self.renew()
            except Exception:  # a full disk, a server that is down: `check` says so, if it lasts
                continue
        self._place.leave_thread()

    def release(self) -> None:
        """Give the lease back, so that another driver may take it at once."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(BEAT_SECONDS)
        # Where that fails, on a full disk or without the server, the record is found to be a dead driver's later.
        with self._guard, suppress(Exception):
            found = self._place.read()
            if found is not None and found.token == self._mine.token:
                self._place.write(None)


def refusal(study: str, holder: Holder | None) -> StudyError:
    """What to say to a second driver; `study` names the study, `holder` is the first."""
    who = "which has just started" if holder is None else str(holder)
    return StudyError(f"{study}: another driver works on this run ({who}); wait for it or end it")


def is_process_gone(holder: Holder) -> bool | None:
    """Whether a holder's process has ended; None if it did not run here since the start of the system, or is hidden."""
    if holder.boot != _boot():
        return None
    start = process_start(holder.process)
    if start is None and _is_hidden(holder.process):
        return None
    return start != holder.process_start


def _is_hidden(process: int) -> bool:
    """Whether the system keeps another user's process from being looked up (`hidepid`)."""
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except ProcessLookupError:
        pass
    return False
