"""Lines of JSON that end with a checksum of all bytes of the file before it, so that any change of a line is found."""

import json
import os
import re
import zlib
from collections.abc import Mapping
from typing import Any

from nas.common.boundary import reason_of

_CHECKSUM = re.compile(rb',"crc32":(\d{1,10})\}\n\Z')


def line_with_checksum(record: Mapping[str, Any], checksum: int) -> tuple[bytes, int]:
    """Return a record as a line, and the checksum of the file including it.

    Args:
        record: The values of the line; at least one.
        checksum: The checksum of the file before the line.
    """
    text = json.dumps(record, separators=(",", ":")).encode()[:-1]
    checksum = zlib.crc32(text, checksum)
    end = b',"crc32":%d}\n' % checksum
    return text + end, zlib.crc32(end, checksum)


def read_line(line: bytes, checksum: int, *, requires_checksum: bool) -> tuple[dict[str, Any], int]:
    """Return the record of a line, with its checksum if it has one, and the checksum of the file including it.

    Args:
        line: The line with its end.
        checksum: The checksum of the file before the line.
        requires_checksum: Whether a line without a checksum is damaged; other programs write such lines.

    Raises:
        ValueError: If the line is damaged; the message is the reason.
    """
    found = _CHECKSUM.search(line)
    if found is None and requires_checksum:
        raise ValueError("it has no checksum")
    if found is not None and int(found[1]) != zlib.crc32(line[: found.start()], checksum):
        raise ValueError("its checksum does not match the file up to here: a line was changed or lost")
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:  # includes UnicodeDecodeError
        raise ValueError(f"not JSON: {reason_of(error)}") from error
    if not isinstance(record, dict):
        raise ValueError("expected a JSON object")
    return record, zlib.crc32(line, checksum)


def complete_lines(content: bytes) -> list[bytes]:
    """Return the lines of content, each with its end, without a partial last line."""
    return [line + b"\n" for line in content.split(b"\n")[:-1]]  # not splitlines, which also splits at b"\r"


def write_all(descriptor: int, content: bytes) -> None:
    """Write all bytes; a disk that fills up accepts a part of them before it fails.

    Raises:
        OSError: If not everything could be written.
    """
    written = 0
    while written < len(content):
        written += os.write(descriptor, content[written:])
