"""The cache directory, and atomic writes: after a crash or a full disk, a file has its old content or the new."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def default_cache_directory() -> Path:
    """Return `$XDG_CACHE_HOME/pmf-nas`; without that variable, `pmf-nas` in the user's `.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pmf-nas"


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
