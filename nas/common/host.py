"""The memory of this machine."""

import os
from pathlib import Path

_FRACTION = 0.5
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def usable_host_memory() -> int:
    """Return the memory in bytes that a search may use: half of the machine's, or of what its container may have."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _CGROUP_LIMIT.read_text().strip() if _CGROUP_LIMIT.is_file() else "max"
    return int(_FRACTION * (min(total, int(limit)) if limit.isdecimal() else total))
