"""The errors of this project: one root, specific children.

Whatever a user can cause is a `NasError`. Its message is complete on its own: it names the file, the key or row, the
value and what is allowed. The command line prints it on standard error and exits with status 2, without a traceback.
"""

from collections.abc import Sequence


class NasError(Exception):
    """Root of all errors that a user can cause and mend."""


class ConfigError(NasError):
    """A configuration file is unusable; lists every problem of the file at once.

    Args:
        source: The file, as the user named it.
        problems: One line a problem, each with key path, value and what is allowed.
    """

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.source = source
        self.problems = tuple(problems)
        count = len(self.problems)
        heading = f"{source}: {count} problem{'s' if count != 1 else ''}"
        super().__init__("\n".join([heading, *(f"  - {problem}" for problem in self.problems)]))


class DataError(NasError):
    """A manifest, an image or a text cannot be used; names the file and the row."""


class EncoderError(NasError):
    """An encoder checkpoint cannot be found, or its family is not supported."""


class BudgetError(NasError):
    """A budget is malformed, or so small that nothing can run within it."""


class StudyError(NasError):
    """A run directory cannot be used: missing, in use by another driver, damaged, or of another configuration."""


class TrainingError(NasError):
    """Training produced numbers that are not finite, or failed the same way for every candidate."""


class ExecutionError(NasError):
    """Workers cannot be started: no such Ray cluster, or no node that can run them."""


class ArgumentError(NasError):
    """An argument of a command is not one of those allowed."""


class ExportError(NasError):
    """A model cannot be exported, or an exported model cannot be loaded."""


class ExtensionError(NasError):
    """An extension cannot be registered or loaded: its name is taken, or its code cannot be imported."""
