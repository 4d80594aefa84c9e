"""Name this program in messages as the user called it, and print commands that can be pasted into a shell."""

import os
import shlex
import shutil
import sys
from pathlib import Path

from nas.common.output import visible

_INSTALLED = "pmf-nas"
_SCRIPT = "run_search.py"


def program_name() -> str:
    """Return the name of this program in its help texts."""
    return _INSTALLED if Path(sys.argv[0]).name == _INSTALLED else _SCRIPT


def program_call() -> str:
    """Return how a command line of this program begins, as it was called: `pmf-nas` or `python run_search.py`."""
    called = sys.argv[0]
    if Path(called).name == _INSTALLED:
        found = shutil.which(_INSTALLED)
        is_found = found is not None and os.path.realpath(found) == os.path.realpath(called)
        return _INSTALLED if is_found else quoted(called)
    return f"python {quoted(called if Path(called).name == _SCRIPT else _SCRIPT)}"


def command_line(command: str, *words: str | Path, rest: str = "") -> str:
    """Return a command line of this program that a shell understands.

    Args:
        command: The name of the command.
        words: Its arguments, which are quoted.
        rest: Arguments that the user fills in, which are not.
    """
    arguments = [f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word) for word in words]
    return " ".join([program_call(), command, *map(quoted, arguments), *([rest] if rest else [])])


def quoted(word: str) -> str:
    """Return a word for a shell; on one line and without characters that drive the terminal."""
    is_plain = visible(word) == word and "\n" not in word and not any("\ud800" <= c <= "\udfff" for c in word)
    if is_plain:
        return shlex.quote(word)
    plain = (
        chr(byte) if 32 <= byte < 127 and chr(byte) not in "\\'" else f"\\x{byte:02x}" for byte in os.fsencode(word)
    )
    return f"$'{''.join(plain)}'"
