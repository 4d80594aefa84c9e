"""The disk space of folders: a file with several names counts once."""

import os
from collections.abc import Iterable


def disk_bytes(files: Iterable[os.stat_result]) -> int:
    """Return the bytes of files, each counted once whatever number of names (hard links) are among them.

    Args:
        files: What `os.lstat` returns for each name.
    """
    return sum({(facts.st_dev, facts.st_ino): facts.st_size for facts in files}.values())
