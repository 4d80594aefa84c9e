"""The errors of this project: one root and specific children.

Every error that a user can cause is a `NasError`. Its message is complete: it names the file, the key or row, the value
and what is allowed. The command line prints the message on standard error and exits with status 2, without a traceback.
"""

from collections.abc import Sequence

_MAX_LISTED = 50


class NasError(Exception):
    """Root of all errors that a user can cause and fix."""


class ConfigError(NasError):
    """A configuration file is invalid; the message lists every problem of the file, up to fifty.

    Args:
        source: The file, as the user named it.
        problems: One line per problem, each with the key path, the value and what is allowed.
    """

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.source = source
        self.problems = tuple(problems)
        count = len(self.problems)
        heading = f"{source}: {count} problem{'s' if count != 1 else ''}"
        lines = [f"  - {problem}" for problem in self.problems[:_MAX_LISTED]]
        if count > _MAX_LISTED:
            lines.append(f"  and {count - _MAX_LISTED:,} more")
        super().__init__("\n".join([heading, *lines]))


class DataError(NasError):
    """A manifest, an image or a text cannot be used; the message names the file and the row."""


class EncoderError(NasError):
    """An encoder checkpoint cannot be found, or its family is not supported."""


class DiskError(DataError):
    """The cached encoder outputs do not fit into the disk space that the search file allows."""


class BudgetError(NasError):
    """A budget is malformed, or too small to run anything.

    Args:
        message: The message.
        needed_bytes: The smallest memory budget that would do, where it is known.
    """

    def __init__(self, message: str, needed_bytes: int | None = None) -> None:
        super().__init__(message)
        self.needed_bytes = needed_bytes


class ArmsError(NasError):
    """None of the arms of a search can be searched; the message names the reason of each, and the smallest need."""


class StudyError(NasError):
    """A run directory cannot be used: it is missing, locked, damaged, or belongs to another configuration."""


class TrainingError(NasError):
    """Training produced non-finite numbers, or failed in the same way for every candidate."""


class ExecutionError(NasError):
    """Workers cannot be started: the Ray cluster does not exist, or none of its nodes can run them."""


class ArgumentError(NasError):
    """A command-line argument has a value that is not allowed."""


class ExportError(NasError):
    """A model cannot be exported, or an exported model cannot be loaded."""


class ExtensionError(NasError):
    """An extension cannot be registered or loaded: its name is taken, or its code cannot be imported."""
