"""Messages of the command line, in the words of Python: names of parameters in place of options."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nas.common.errors import NasError
from nas.common.interrupt import Interrupted

_OPTION = re.compile(r"--([a-z]+(?:-[a-z]+)*)")
_COLUMN = re.compile(r"--(image|text|label|split)(?: COLUMN)?(?![\w-])")
_COMMAND = re.compile(r"`[^`]*`|(?:python \S*run_search\.py|pmf-nas) .*")


def in_python(message: str) -> str:
    """Return a message with the names of Python's parameters: `--run-dir` becomes `run_dir`, but not in commands.

    Args:
        message: A message for the command line.
    """
    parts, end = [], 0
    for command in _COMMAND.finditer(message):
        parts += [_renamed(message[end : command.start()]), command.group()]
        end = command.end()
    return "".join([*parts, _renamed(message[end:])])


def _renamed(text: str) -> str:
    text = _COLUMN.sub(r"\1_column", text)
    return _OPTION.sub(lambda found: found.group(1).replace("-", "_"), text)


@contextmanager
def python_errors(directory: Path | None = None, source: Path | None = None) -> Iterator[None]:
    """Word the errors of this program for callers in Python, and end an interrupted search with a KeyboardInterrupt.

    Args:
        directory: The run directory, which the message of an interruption names.
        source: A temporary search file, which messages must not name.

    Raises:
        NasError: As raised, with another message.
        KeyboardInterrupt: If the search was interrupted and has saved its results.
    """
    try:
        yield
    except NasError as error:
        message = str(error)
        if source is not None:
            message = message.replace(str(source), "config")
        error.args = (in_python(message),)
        raise
    except Interrupted:
        hint = "" if directory is None else f"; continue with nas.resume({str(directory)!r})"
        raise KeyboardInterrupt(f"everything finished is saved{hint}") from None
