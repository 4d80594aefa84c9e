"""The boundary to what a user brings: files, folders and values of any kind, whole or damaged.

Everything that is read from outside is read inside `reading`, the one place that turns the exceptions of libraries into
`NasError`. `read_bytes` and its relatives read a file that may be anything: missing, a device, huge, not text, or a
pointer in place of the content.
"""

import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nas.common.errors import NasError
from nas.common.interrupt import Interrupted
from nas.common.units import format_bytes

MEBIBYTE = 1024**2
SMALL_FILE = 64 * MEBIBYTE
"""The default bound for files that are read as a whole: configurations, descriptions, records."""

_MAX_SHOWN = 80
_MAX_REASON = 200
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_CLASS_NAME = re.compile(r"\b[A-Za-z]*(?:Error|Exception): ")
_CLASS = re.compile(r"<class '(?:\w+\.)*(\w+)'>")
_UNEXPECTED = (TypeError, AttributeError, IndexError, AssertionError, ArithmeticError)
"""Exceptions with messages about Python's objects, of libraries that do not check what they read."""
_PANIC = "PanicException"
"""What libraries written in Rust raise where they do not check; it is no `Exception`, and has no module to import."""
_PLAIN_REASONS = (
    (RecursionError, "nested too deeply"),
    (MemoryError, "more memory needed than available"),
)


def shown(value: object, limit: int = _MAX_SHOWN) -> str:
    """Return a value for a message: on one line, printable, shortened in the middle.

    Args:
        value: A value of any type; numbers of any length and text with any characters are allowed.
        limit: The number of characters that the result may have.
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # integers of more than 4,300 digits, or structures nested thousands deep
        digits = value.bit_length() * 3 // 10 if isinstance(value, int) else 0
        text = f"a number of about {digits:,} digits" if digits else f"a nested {type(value).__name__}"
    return shortened(_printable(text), limit)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def shortened(text: str, limit: int = _MAX_SHOWN) -> str:
    """Return a text without its middle if it is longer than the limit."""
    if len(text) <= limit:
        return text
    kept = (limit - 3) // 2
    return f"{text[:kept]}...{text[-kept:]}"


def reason_of(error: BaseException) -> str:
    """Return what went wrong, on one line, without the name of a file that the message names anyway.

    Args:
        error: An exception of Python or of any library.
    """
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start + 1} is not {error.encoding.upper()} text"
    if isinstance(error, UnicodeEncodeError):
        return f"character {error.start + 1} is not {error.encoding.upper()} text"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower() if error.strerror[1:2].islower() else error.strerror
    plain = next((text for kind, text in _PLAIN_REASONS if isinstance(error, kind)), None)
    # The first line may only announce those below: "Validation error for field 'x':".
    lines = [_CLASS.sub(r"\1", _CLASS_NAME.sub("", line.strip())) for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:2]) if lines and lines[0].endswith(":") else "".join(lines[:1])
    if plain is not None or not text:
        return plain or "no reason given"
    first = shortened(_printable(text), _MAX_REASON)
    if isinstance(error, KeyError):
        return f"{first} is missing"
    return f"unexpected content ({first})" if isinstance(error, _UNEXPECTED) else first


@contextmanager
def reading(
    subject: object,
    *,
    expected: str,
    error: Callable[[str], NasError] = NasError,
    problem: str = "cannot be read",
) -> Iterator[None]:
    """Turn every failure of the body into one error; interruptions and errors that are complete already pass.

    The body must only read and convert what the user gave, so that a failure is the fault of the input: libraries raise
    nearly any exception for damaged files, so no list of types would be complete.

    Args:
        subject: The object that the message starts with: a file, a folder, or a key of one.
        expected: A noun phrase for what is allowed.
        error: The type of the error, or a function that builds it from its message.
        problem: The problem in front of the reason.

    Raises:
        NasError: As given by `error`, with the reason of the failure.
    """
    try:
        yield
    except (NasError, Interrupted):
        raise
    except BaseException as caught:
        if not isinstance(caught, Exception) and type(caught).__name__ != _PANIC:
            raise
        raise error(f"{subject}: {problem}: {reason_of(caught)}; expected {expected}") from caught


def check_regular_file(
    path: Path, *, expected: str, error: Callable[[str], NasError] = NasError, max_bytes: int | None = None
) -> int:
    """Check, without opening it, that a path leads to a regular file that can be read: reading others may never end.

    Args:
        path: The path; links are followed.
        expected: A noun phrase for the file that is expected.
        error: See `reading`.
        max_bytes: The size that the file may have; None for any.

    Returns:
        The size of the file in bytes.

    Raises:
        NasError: If it is missing, not readable, larger, or not a regular file.
    """
    with reading(path, expected=expected, error=error):
        status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for test, name in _KINDS if test(status.st_mode)), "a special file")
        raise error(f"{path}: cannot be read; expected {expected}, got {kind}")
    if max_bytes is not None and status.st_size > max_bytes:
        raise error(
            f"{path}: is too large; expected {expected} of at most {format_bytes(max_bytes)}, got "
            f"{format_bytes(status.st_size)}"
        )
    return status.st_size


def check_no_lfs_pointer(path: Path, *, expected: str, error: Callable[[str], NasError] = NasError) -> None:
    """Check that a file is not the pointer that Git LFS leaves where content was not downloaded.

    Args:
        path: A regular file.
        expected: A noun phrase for the content.
        error: See `reading`.

    Raises:
        NasError: If it is a pointer, or cannot be read.
    """
    with reading(path, expected=expected, error=error), path.open("rb") as file:
        start = file.read(len(_LFS_POINTER))
    if is_lfs_pointer(start):
        raise error(f"{path}: is a Git LFS pointer; expected {expected}; run `git lfs pull` in its repository")


def is_lfs_pointer(content: bytes) -> bool:
    """Return whether content, or its first 40 bytes, is that of a Git LFS pointer."""
    return content.startswith(_LFS_POINTER)


def read_bytes(
    path: Path, *, expected: str, error: Callable[[str], NasError] = NasError, max_bytes: int = SMALL_FILE
) -> bytes:
    """Return the content of a file of the user.

    Args:
        path: The file.
        expected: A noun phrase for the file that is expected.
        error: See `reading`.
        max_bytes: The size that the file may have.

    Raises:
        NasError: If it is missing, not readable, too large, no regular file, or a Git LFS pointer.
    """
    check_regular_file(path, expected=expected, error=error, max_bytes=max_bytes)
    with reading(path, expected=expected, error=error), path.open("rb", buffering=0) as file:
        chunks, size = [], 0
        # Files under /proc and files that grow have more bytes than their size says.
        while chunk := os.read(file.fileno(), min(max_bytes + 1 - size, 16 * MEBIBYTE)):
            chunks.append(chunk)
            size += len(chunk)
    content = b"".join(chunks)
    if size > max_bytes:
        raise error(f"{path}: is too large; expected {expected} of at most {format_bytes(max_bytes)}")
    if is_lfs_pointer(content):
        raise error(f"{path}: is a Git LFS pointer; expected {expected}; run `git lfs pull` in its repository")
    return content


def read_text(
    path: Path, *, expected: str, error: Callable[[str], NasError] = NasError, max_bytes: int = SMALL_FILE
) -> str:
    """Return the content of a UTF-8 file of the user, without a byte order mark; see `read_bytes`."""
    content = read_bytes(path, expected=expected, error=error, max_bytes=max_bytes)
    with reading(path, expected=f"{expected} in UTF-8", error=error):
        return content.decode("utf-8-sig")


def read_json(
    path: Path, *, expected: str, error: Callable[[str], NasError] = NasError, max_bytes: int = SMALL_FILE
) -> Any:
    """Return the value of a JSON file of the user; the caller checks its shape inside `reading`. See `read_bytes`."""
    text = read_text(path, expected=expected, error=error, max_bytes=max_bytes)
    with reading(path, expected=expected, error=error, problem="is not valid JSON"):
        return json.loads(text)


def json_value(text: str) -> Any:
    """Return the value of a JSON text of the user.

    Raises:
        ValueError: If it is not JSON, or nested too deeply to be read.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
