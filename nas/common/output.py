"""Standard output and standard error that lose nothing, whatever the terminal, file or pipe behind them can take.

Characters that the encoding of a stream lacks are replaced. A stream that is closed, full or no longer read does not
end a search: what it cannot take goes to the other stream.
"""

import codecs
import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any, TextIO, cast

from nas.common.boundary import reason_of
from nas.common.errors import NasError

_HANDLER = "pmf_nas.plain"
"""The error handler of encodings, registered below."""

_PLAIN = {"±": "+-", "→": "->", "−": "-", "≤": "<=", "≥": ">=", "×": "x", "…": "...", "━": "-", "╸": "-", "╺": "-"}
"""Plain forms of the characters that this program prints; all others are escaped."""

_CONTROLS = {
    code: chr(code).encode("unicode_escape").decode()
    for code in (*range(32), *range(127, 160), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
    if chr(code) not in "\n\t"
}
"""Characters that move the cursor, change colours or reorder text, each with its escape."""


class OutputError(NasError):
    """Standard output cannot take the answer of a command."""


class ReaderGone(OutputError):
    """The reader of standard output, for instance `head`, has ended before the answer did."""


def visible(text: str) -> str:
    """Return a text without the characters that drive a terminal; line ends and tabs are kept."""
    return text.translate(_CONTROLS)


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Return the replacement of characters that an encoding lacks: an error handler of `codecs`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain_character, error.object[error.start : error.end])), error.end


def _plain_character(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of an argument or a path that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return _PLAIN.get(character) or character.encode("unicode_escape").decode()


codecs.register_error(_HANDLER, _plain)


class OutputStream:
    """Text stream whose writes never fail on characters; used in place of `sys.stdout` and `sys.stderr`.

    Attributes that are not defined here are those of the stream behind it.

    Args:
        stream: The stream behind it; None if it was closed before the program started.
        name: Its name in messages.
    """

    def __init__(self, stream: TextIO | None, name: str) -> None:
        self._stream = stream if stream is not None else open(os.devnull, "w")  # noqa: SIM115 - open until the end
        self._name = name
        self._lock = threading.RLock()
        self._unflushed: list[str] = []
        self._reason: str | None = "is closed" if stream is None else None
        self._is_pipe_closed = False
        self._substitute: OutputStream | None = None
        reconfigure = getattr(self._stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors=_HANDLER)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def is_lost(self) -> bool:
        """Whether the stream can take no more text."""
        return self._reason is not None

    def go_on_with(self, substitute: "OutputStream") -> None:
        """Write to another stream, after a line that explains it, as soon as this one can take no more text.

        Args:
            substitute: The other stream.
        """
        self._substitute = substitute
        if self._reason is not None:
            self._explain(substitute)

    def check(self) -> None:
        """Check that all text so far has arrived here or at the substitute.

        Raises:
            OutputError: If it has not.
        """
        self.flush()
        if self._reason is None or self._substitute is not None:
            return
        message = f"{self._name}: {self._reason}, so the answer is lost; expected a terminal, file or pipe"
        raise (ReaderGone if self._is_pipe_closed else OutputError)(message)

    def write(self, text: str) -> int:
        """Write text; lost without an error where neither this stream nor its substitute can take it."""
        with self._lock:
            if self._reason is not None:
                if self._substitute is not None:
                    self._substitute.write(text)
                return len(text)
            self._unflushed.append(text)
            try:
                self._stream.write(text)
                if "\n" in text:
                    self.flush()
            except (OSError, ValueError) as error:  # ValueError: something has closed the Python object
                self._lose(error)
            return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        with self._lock:
            try:
                if self._reason is None:
                    self._stream.flush()
                self._unflushed.clear()
            except (OSError, ValueError) as error:
                self._lose(error)

    def _lose(self, error: OSError | ValueError) -> None:
        """Give the stream up: what has not arrived goes to the substitute."""
        self._reason = f"cannot be written ({reason_of(error)})"
        self._is_pipe_closed = isinstance(error, BrokenPipeError)
        lost, self._unflushed = self._unflushed, []
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as null:
            os.dup2(null.fileno(), self._stream.fileno())  # what is left in Python's buffer must not fail later
        if self._substitute is not None:
            self._explain(self._substitute)
            for text in lost:
                self._substitute.write(text)

    def _explain(self, substitute: "OutputStream") -> None:
        substitute.write(f"{self._name}: {self._reason}; messages continue here\n")


@contextlib.contextmanager
def resilient_output() -> Iterator[tuple[OutputStream, OutputStream]]:
    """Replace `sys.stdout` and `sys.stderr`, and open closed standard streams so that no other file gets their number.

    Yields:
        Standard output and standard error.
    """
    _open_descriptors()
    originals = (sys.stdout, sys.stderr)
    errors = [getattr(stream, "errors", None) for stream in originals]
    streams = OutputStream(sys.stdout, "standard output"), OutputStream(sys.stderr, "standard error")
    sys.stdout, sys.stderr = (cast(TextIO, stream) for stream in streams)
    try:
        yield streams
    finally:
        for stream in streams:
            stream.flush()
        sys.stdout, sys.stderr = originals
        for original, handler in zip(originals, errors, strict=True):
            if hasattr(original, "reconfigure"):
                original.reconfigure(errors=handler)


def lossless_output() -> TextIO:
    """Return standard output as a stream that never fails: where it cannot be written, standard error is."""
    if isinstance(sys.stdout, OutputStream):
        return cast(TextIO, sys.stdout)
    output = OutputStream(sys.stdout, "standard output")
    output.go_on_with(OutputStream(sys.stderr, "standard error"))
    return cast(TextIO, output)


def _open_descriptors() -> None:
    """Open the null device in place of closed standard streams."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest free number
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115 - open until the end


def complain(text: str) -> None:
    """Write a line to standard error; to standard output if that is lost.

    Args:
        text: The line, or several.
    """
    shown = visible(text).replace("\t", "\\t")  # a tab in a name would look like blanks
    line = f"{shown}\n"
    sys.stderr.write(line)
    sys.stderr.flush()
    if isinstance(sys.stderr, OutputStream) and sys.stderr.is_lost:
        sys.stdout.write(line)


def warn(note: str) -> None:
    """Write a warning to standard error; see `complain`."""
    complain(f"warning: {note}")
