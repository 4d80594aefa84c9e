"""A small disk that fills up."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def tmpfs(place: Path, size_bytes: int) -> Iterator[Path]:
    """Mount a small disk until the block ends.

    Raises:
        subprocess.CalledProcessError: If mounting is not permitted.
    """
    place.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(place))
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def resize(disk: Path, size_bytes: int) -> None:
    """Change the size of a disk that `tmpfs` has mounted."""
    _mount("-o", f"remount,size={size_bytes}", str(disk))


def _mount(*arguments: str) -> None:
    try:
        subprocess.run(["mount", *arguments], check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise subprocess.CalledProcessError(127, "mount", stderr="no mount program is installed") from error
