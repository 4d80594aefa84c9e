"""Find a directory for the temporary files of a private Ray. Imports no Ray, so that it can be checked early."""

import os
from collections.abc import Sequence
from pathlib import Path

from nas.common.boundary import reason_of
from nas.common.errors import ExecutionError
from nas.common.units import format_bytes

TEMPORARY_PREFIX = "nas"
"""The beginning of the name of the directory that is created in the place."""

RAY_DIRECTORY = "r"
"""The directory of Ray in that directory."""

_SOCKET_BYTES = 107  # the longest name of a Unix socket
_NAME = f"/{TEMPORARY_PREFIX}12345678/{RAY_DIRECTORY}/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""The longest name in the place: the directory, and in it a socket of Ray."""

_LONGEST = _SOCKET_BYTES - len(_NAME)
_NEEDED_BYTES = 16 * 2**20  # logs


def temporary_place() -> tuple[Path, str]:
    """Return a directory for temporary files, and a line about why it is not the one that the environment names.

    Returns:
        The directory, and the line; empty if there is nothing to report.

    Raises:
        ExecutionError: If none can be used; names all that were tried.
    """
    named = [(name, os.environ[name]) for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)]
    others = [("XDG_RUNTIME_DIR", os.environ["XDG_RUNTIME_DIR"])] if os.environ.get("XDG_RUNTIME_DIR") else []
    refused: list[str] = []
    for variable, place in [*named[:1], ("", "/tmp"), *others, ("", "/var/tmp"), ("", "/dev/shm")]:
        problem = _problem(Path(place))
        if problem is None:
            return Path(place), _explanation(refused[:1] if named else [], place)
        refused.append(f"{f'{variable}=' if variable else ''}{place} {problem}")
    raise ExecutionError(
        f"temporary files of Ray: no directory can be used: {'; '.join(refused)}; expected a writable one with a name "
        f"of at most {_LONGEST} bytes; set RAY_TMPDIR, or use --workers 0"
    )


def _explanation(refused: Sequence[str], place: str) -> str:
    return f"Ray: {refused[0]}; its temporary files are in {place} instead" if refused else ""


def _problem(place: Path) -> str | None:
    """Return why a directory cannot be used; None if it can."""
    size = len(os.fsencode(place))
    if size > _LONGEST:
        return f"is too long for the names of sockets (at most {_LONGEST} bytes, got {size})"
    if not place.is_absolute():
        return "is not an absolute path"
    try:
        if not place.is_dir():
            return "is not a directory" if place.exists() else "does not exist"
        system = os.statvfs(place)
    except OSError as error:
        return f"cannot be used ({reason_of(error)})"
    free = system.f_bavail * system.f_frsize
    if not os.access(place, os.W_OK | os.X_OK):
        return "cannot be written"
    return f"has only {format_bytes(free)} of free space" if free < _NEEDED_BYTES else None
