"""Find and delete what searches have left behind: cached features that no run uses, and runs that are not continued.

Nothing that is in use is deleted: no cache with a run on record that still exists, no run whose lease is held, no cache
that is being built. A finished run is no leftover.
"""

import contextlib
import os
import re
import shutil
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from nas.common.disk_usage import disk_bytes
from nas.common.errors import NasError, StudyError
from nas.run.arms.directory import is_arms_run
from nas.run.cache_records import recorded_runs, records_folder
from nas.run.directory import ARMS, CONFIG, is_run
from nas.run.overview import state_of
from nas.storage.backends.journal import LOCK
from nas.storage.lease import LockFile

Kind = Literal["cache", "unknown cache", "run"]

_BUILDING = ".building"
_DELETING = ".deleting"
_NAME = re.compile(rf"[0-9a-f]{{32}}({re.escape(_BUILDING)})?({re.escape(_DELETING)})?")
"""The names of folders of features: a folder that is no cache must not be deleted, whatever `--cache-dir` is."""
_ABANDONED_STATES = ("stopped", "damaged")
"""The states of runs that are neither finished nor, as far as is known here, in use."""


@dataclass(frozen=True)
class Leftover:
    """Something that can be deleted.

    Args:
        kind: What it is; a cache without a record of its runs is unknown.
        path: Its folder.
        reason: Why it can be deleted.
        size: The bytes of all its files.
        changed: The time of the last change, in seconds since the epoch.
    """

    kind: Kind
    path: Path
    reason: str
    size: int
    changed: float


def find_caches(cache_directory: Path) -> list[Leftover]:
    """Return the folders of features that no existing run has on record.

    Args:
        cache_directory: The cache.

    Raises:
        OSError: If the cache cannot be read.
    """
    folder = cache_directory / "features"
    if not folder.is_dir():
        return []
    found = []
    for path in sorted(entry for entry in folder.iterdir() if _NAME.fullmatch(entry.name)):
        if path.suffix == _DELETING:
            found.append(_leftover("cache", path, "its deletion was interrupted"))
        elif path.suffix == _BUILDING:
            found.append(_leftover("unknown cache", path, "its build is not finished"))
        elif (leftover := _unused(path)) is not None:
            found.append(leftover)
    return found


def _unused(path: Path) -> Leftover | None:
    """Return a folder of features as a leftover; None if a run on record exists."""
    try:
        runs = recorded_runs(path)
    except StudyError:
        return _leftover("unknown cache", path, "a record of its runs is damaged")
    if runs is None:
        return _leftover("unknown cache", path, "no record of its runs")
    if any(run.is_dir() for run in runs):
        return None
    return _leftover("cache", path, f"its runs are gone: {_listed(runs)}")


def find_runs(folder: Path) -> list[Leftover]:
    """Return the runs of a folder that are neither finished nor in use.

    Args:
        folder: A folder with run directories, or a run directory.

    Raises:
        OSError: If the folder cannot be read.
    """
    if not folder.is_dir():
        return []
    paths = [folder, *sorted(entry for entry in folder.iterdir() if entry.is_dir())]
    found = []
    for path in filter(is_run, paths):
        state = _state(path)
        if state in _ABANDONED_STATES:
            found.append(_leftover("run", path, state))
    return found


def _state(directory: Path) -> str:
    """Return the state of a run; of one over several arms, the first of its arms that is not abandoned."""
    try:
        has_arms = is_arms_run(directory)
    except NasError:
        return "damaged"
    if not has_arms:
        return state_of(directory)
    arms = [state_of(entry) for entry in sorted((directory / ARMS).glob("*")) if is_run(entry)]
    return next((state for state in arms if state not in _ABANDONED_STATES), "stopped")


def _leftover(kind: Kind, path: Path, reason: str) -> Leftover:
    facts = [os.lstat(path), *(os.lstat(Path(root, name)) for root, _, names in os.walk(path) for name in names)]
    return Leftover(kind, path, reason, disk_bytes(facts[1:]), max(fact.st_mtime for fact in facts))


def _listed(runs: Sequence[Path]) -> str:
    shown = ", ".join(str(run) for run in runs[:2])
    return shown if len(runs) <= 2 else f"{shown} and {len(runs) - 2} more"


def delete(leftover: Leftover) -> None:
    """Delete something, unless it has come into use meanwhile.

    Args:
        leftover: What to delete.

    Raises:
        StudyError: If it is in use now.
        OSError: If it cannot be deleted.
    """
    path = leftover.path
    if leftover.kind == "run":
        _delete_run(path)
        return
    key = path.name.removesuffix(_DELETING).removesuffix(_BUILDING)
    features = path.with_name(key)
    with _build_lock(features.with_name(f"{key}.lock")):
        if any(run.is_dir() for run in recorded_runs(features) or ()):
            raise StudyError(f"{path}: a run uses it now; expected none")
        _delete_cache(path)
        if not features.exists():
            shutil.rmtree(records_folder(features), ignore_errors=True)  # it may have none


@contextlib.contextmanager
def _build_lock(path: Path) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise StudyError(f"{path.with_suffix('')}: a process builds it now; expected none") from error
    try:
        yield
    finally:
        lock.release()


def _delete_run(path: Path) -> None:
    with contextlib.closing(LockFile(path / LOCK)) as lock:
        holder = lock.read()
        is_elsewhere = holder is not None and holder.host != socket.gethostname()
        if is_elsewhere or _state(path) not in _ABANDONED_STATES:
            raise StudyError(f"{path}: is in use or finished now; expected an abandoned run")
        for entry in path.iterdir():  # the file that makes it a run last: a kill leaves what is found again
            if entry.name not in (CONFIG, LOCK):
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        shutil.rmtree(path)


def _delete_cache(path: Path) -> None:
    """Delete a folder so that a kill leaves either the whole folder or one that is recognized as being deleted."""
    target = path if path.suffix == _DELETING else path.with_name(f"{path.name}{_DELETING}")
    if target != path:
        if target.exists():
            shutil.rmtree(target)
        path.rename(target)
    shutil.rmtree(target)
