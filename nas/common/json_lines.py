"""Files with one JSON object a line, to which a running program appends."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas.common.boundary import read_bytes
from nas.common.errors import StudyError

_MAX_BYTES = 1024**3


def append_json_line(path: Path, values: Mapping[str, Any]) -> None:
    """Append one object to a file, which is created if it does not exist.

    A line that a kill has cut off is ended first, so that it damages no other.

    Args:
        path: The file.
        values: Values that JSON can store, by their names.

    Raises:
        OSError: If it cannot be written.
    """
    with path.open("ab+") as file:
        is_cut = False
        if file.tell():
            file.seek(-1, 2)
            is_cut = file.read(1) != b"\n"
        file.write(b"\n" * is_cut + json.dumps(values).encode() + b"\n")


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read the objects of a file, without lines that are not whole: the writer was killed, or is writing.

    Args:
        path: The file; without it there are none.

    Raises:
        StudyError: If the file cannot be read.
    """
    if not path.exists():
        return []
    found = []
    content = read_bytes(path, expected="one JSON object a line", error=StudyError, max_bytes=_MAX_BYTES)
    for line in content.splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict):
            found.append(values)
    return found
