"""JSON files of this program with a checksum of their values, so that damage and changes from outside are noticed.

The checksum is in the file itself: files are replaced one by one, and a kill must not part a file from its checksum. It
covers the values, not how they are written. It protects against accidents, not against an attacker.
"""

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from nas.common.boundary import read_text, reading, shown
from nas.common.errors import StudyError
from nas.common.files import write_atomically

CHECKSUM = "crc32"
"""The key of the checksum, next to those of the values."""

_Content = TypeVar("_Content")


def write_sealed_json(path: Path, values: Mapping[str, Any]) -> None:
    """Replace a file atomically and durably.

    Args:
        path: The file.
        values: Values that JSON can store, by their names.

    Raises:
        OSError: If it cannot be written; the old file is then untouched.
    """
    plain = as_stored(values)
    write_atomically(path, (json.dumps({**plain, CHECKSUM: _checksum(plain)}, indent=1) + "\n").encode())


def read_sealed_json(
    path: Path, build: Callable[[dict[str, Any]], _Content], *, expected: str, remedy: str
) -> _Content:
    """Read a file that `write_sealed_json` has written.

    Args:
        path: The file, which exists.
        build: Function that builds the content from the values; it raises an exception of any type if they have another
            shape.
        expected: A noun phrase for the content.
        remedy: What the user can do about a damaged file.

    Raises:
        StudyError: If the file is damaged, was changed, or holds something else.
    """

    def damaged(message: str) -> StudyError:
        return StudyError(f"{message}; {remedy}")

    text = read_text(path, expected=expected, error=damaged)
    with reading(path, expected=expected, error=damaged, problem="is damaged"):
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError(f"{shown(values)} is no JSON object")
        if CHECKSUM not in values:
            raise ValueError("it has no checksum")
        found = values.pop(CHECKSUM)
        if found != _checksum(values):
            raise ValueError("its checksum does not match its values: it was changed outside this program")
        return build(values)


def as_stored(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as they are read back, with lists in place of tuples."""
    stored: dict[str, Any] = json.loads(json.dumps(values))
    return stored


def _checksum(values: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(values, sort_keys=True, separators=(",", ":")).encode())
