"""The private memory of a process and of all that it has started."""

from collections.abc import Iterator
from pathlib import Path


def tree_bytes(process: int) -> tuple[int, int]:
    """Return the private memory of a process, and that of the processes that it and its own have started (Linux).

    Args:
        process: Its number.
    """
    return _private_bytes(process), sum(map(_private_bytes, _descendants(process)))


def _descendants(parent: int) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for path in Path("/proc").iterdir():
        try:
            if path.name.isdigit():
                fields = (path / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(path.name))
        except OSError:
            continue  # it has ended
    waiting = [parent]
    while waiting:
        found = children.get(waiting.pop(), [])
        yield from found
        waiting += found


def _private_bytes(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
