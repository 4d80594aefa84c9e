"""Where the cache is; and writing so that a crash or a full disk leaves a file's old content or the new, never half."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def default_cache_directory() -> Path:
    """`$XDG_CACHE_HOME/pmf-nas`, by default in the user's `.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pmf-nas"


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file's content: temporary name, fsync, rename, fsync of the folder.

    Raises:
        OSError: If the disk is full or the folder cannot be written; the old file is then untouched.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name to write a file under, which takes the place of `path` once all of it is on the disk.

    Raises:
        OSError: If the disk is full or the folder cannot be written; names the file, and the old one is untouched.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        # A write that fails names no file, and the temporary name means nothing to anybody.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Make renames inside a folder durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
