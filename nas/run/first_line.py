"""The first line of a search, which is shown before the imports that take seconds. Imports none of them."""

from pathlib import Path

from nas.common.progress import Reporter
from nas.run.program_name import command_line

_CONFIG = "config.yaml"  # `nas.run.directory` has it as well, but takes seconds to import


def start_line(directory: Path) -> str:
    """Return the first line of a new search.

    Args:
        directory: Its run directory.
    """
    return (
        f"Run directory: {directory}. Everything finished is kept there; after an interruption, resume it with: "
        f"{command_line('resume', directory)}"
    )


def announce(directory: Path, reporter: Reporter) -> bool:
    """Show at once that a search starts or goes on.

    Args:
        directory: The run directory.
        reporter: The receiver of the line.

    Returns:
        Whether the first line of a new search was shown; not for a directory that may be refused.

    Raises:
        OSError: If the directory cannot be read.
    """
    if announce_resumed(directory, reporter):
        return False
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        return False
    reporter.note(start_line(directory))
    return True


def announce_resumed(directory: Path, reporter: Reporter) -> bool:
    """Show at once that a run is read, and return whether the directory holds one.

    Args:
        directory: The run directory.
        reporter: The receiver of the line.
    """
    is_run = (directory / _CONFIG).exists()
    if is_run:
        reporter.note(f"Reading the run in {directory}")
    return is_run
