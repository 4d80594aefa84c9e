"""The cache directory, and atomic writes: after a crash or a full disk, a file has its old content or the new."""

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nas.common.errors import ExecutionError


def default_cache_directory() -> Path:
    """Return `$XDG_CACHE_HOME/pmf-nas`; without that variable, `pmf-nas` in the user's `.cache`.

    Raises:
        ExecutionError: If there is no such variable and the user has no home directory.
    """
    place = os.environ.get("XDG_CACHE_HOME")
    if place:
        return Path(place) / "pmf-nas"
    try:
        return Path.home() / ".cache" / "pmf-nas"
    except RuntimeError as error:  # HOME is not set, and the user is in no list of users, as in some containers
        raise ExecutionError(
            "cache directory: the user has no home directory; choose one with --cache-dir or XDG_CACHE_HOME"
        ) from error


def file_size(path: Path) -> int | None:
    """Return the size of a file in bytes; None if it does not exist."""
    try:
        return path.stat().st_size
    except (OSError, ValueError):  # ValueError: a path with a null byte
        return None


def check_writable(directory: Path) -> None:
    """Check that files can be written to a directory, which is created later if it does not exist.

    Raises:
        OSError: If they cannot; names the directory that is in the way.
    """
    resolved = directory.resolve()
    place = next(path for path in (resolved, *resolved.parents) if path.exists())
    number = 0
    if not place.is_dir():
        number = errno.ENOTDIR
    elif not os.access(place, os.W_OK | os.X_OK):
        number = errno.EROFS if os.statvfs(place).f_flag & os.ST_RDONLY else errno.EACCES
    if number:
        raise OSError(number, os.strerror(number), str(place))


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the content of a file atomically and durably.

    Raises:
        OSError: If the disk is full or the directory is not writable; the old file is unchanged.
    """
    with replace_atomically(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; on success, sync it to disk and rename it to `path`.

    Raises:
        OSError: If the disk is full or the directory is not writable; the error names `path`, whose old content is
            unchanged.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        # A failed write names no file, and the temporary name is meaningless to the user.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Sync a directory to disk, which makes renames in it durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
