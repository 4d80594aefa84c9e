"""Check the limits of the operating system on this process (`ulimit`) before libraries run into them.

Libraries in C++ end the process when an allocation or the start of a thread fails, without an exception to report.
"""

import resource
from pathlib import Path

from nas.common.errors import ExecutionError
from nas.common.units import format_bytes

_NEEDED_BYTES = 2**30
"""The address space that a search needs besides what this process has with all its libraries."""

_RAY_BYTES = 2 * 2**30
"""The address space that the connection to Ray needs besides."""

_FILES = 32
"""The number of open files that a search needs."""

_RAY_FILES = 128
"""The number of open files with Ray workers: with 64, they wait minutes for connections that cannot be made."""

_LIMITS = ((resource.RLIMIT_AS, "VmSize", "-v"), (resource.RLIMIT_DATA, "VmData", "-d"))


def check_limits(*, uses_ray: bool) -> None:
    """Check that the limits on the memory and the open files of this process leave room for a search.

    Args:
        uses_ray: Whether the search has Ray workers.

    Raises:
        ExecutionError: If they do not.
    """
    hint = "; --workers 0 needs less" if uses_ray else ""
    sizes = _sizes()
    for number, field, option in _LIMITS:
        limit, _ = resource.getrlimit(number)
        needed = sizes.get(field, 0) + _NEEDED_BYTES + (_RAY_BYTES if uses_ray else 0)
        if limit != resource.RLIM_INFINITY and limit < needed:
            raise ExecutionError(
                f"ulimit {option}: too little memory for a process; expected at least {format_bytes(needed)}, got "
                f"{format_bytes(limit)}{hint}"
            )
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed_files = _RAY_FILES if uses_ray else _FILES
    if files != resource.RLIM_INFINITY and files < needed_files:
        raise ExecutionError(
            f"ulimit -n: too few open files for a process; expected at least {needed_files}, got {files}{hint}"
        )


def _sizes() -> dict[str, int]:
    """Return the sizes of the memory of this process in bytes, by the names that Linux gives them."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return {}
    return {
        name: int(value.split()[0]) * 1024
        for name, _, value in (line.partition(":") for line in lines)
        if value.strip().endswith("kB")
    }
