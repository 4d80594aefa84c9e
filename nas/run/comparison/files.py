"""The files of a comparison."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas.common.errors import StudyError
from nas.common.files import write_atomically
from nas.config.diff import differences
from nas.config.places import without_places
from nas.config.schema import Config
from nas.run.directory import is_run, read_run

SETTINGS, LOCK, SEARCH, FOUND = "comparison.json", "driver.lock", "search", "found.json"
"""Files of the comparison: its settings, its lock, the run directory of its search, and what that has found."""

FACTS, TRAININGS, FAILURES, TESTS = "facts.json", "trainings.json", "failures.json", "tests.json"
"""Files of one entry: its data and architecture, its trainings, its failures, and its test metrics."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a file of a comparison; empty if it does not exist.

    Args:
        path: The file.

    Raises:
        StudyError: If it is damaged.
    """
    if not path.exists():
        return {}
    try:
        values: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise damaged_file(path, error) from error
    return values


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a file of a comparison.

    Args:
        path: The file.
        values: The values.

    Raises:
        OSError: If it cannot be written; the old one is then untouched.
    """
    write_atomically(path, json.dumps(values, indent=1).encode())


def damaged_file(path: Path, error: Exception) -> StudyError:
    """Return the error for a damaged file of a comparison.

    Args:
        path: The file.
        error: The reason.
    """
    # Without its settings, the scores of a comparison cannot be attributed.
    remedy = "compare in a new directory (--run-dir)" if path.name == SETTINGS else "delete it to recreate it"
    return StudyError(f"{path}: is damaged ({error}); {remedy}")


def check_directory(directory: Path) -> None:
    """Check that a directory is new or holds a comparison.

    Args:
        directory: The directory of the comparison, which may exist.

    Raises:
        StudyError: If it holds other files.
    """
    if not directory.exists() or (directory / SETTINGS).exists():
        return
    # A search that was stopped leaves its files before the settings are written; a process that is killed while it
    # writes a file leaves a temporary one.
    known = {LOCK, SEARCH, FOUND}
    half_written = tuple(f".{name}." for name in (SETTINGS, FOUND))
    if any(path.name not in known and not path.name.startswith(half_written) for path in directory.iterdir()):
        raise StudyError(
            f"{directory}: is not empty and holds no comparison; expected an empty or new directory (--run-dir)"
        )


class SettingsFile:
    """Record of everything that the scores of a comparison depend on, besides the data.

    Args:
        directory: The directory of the comparison.
        config: The configuration of the comparison.
        seeds: The number of seeds of each entry.

    Raises:
        StudyError: If the directory holds a comparison with other settings.
    """

    def __init__(self, directory: Path, config: Config, seeds: int) -> None:
        rates = list(config.compare.learning_rates)
        values = {**without_places(config.as_dict()), "seeds": seeds, "learning_rates": rates}
        self._path, self._values = directory / SETTINGS, json.loads(json.dumps(values))
        changed = differences(self._earlier(directory), self._values)
        if changed:
            lines = "\n".join(f"  - {line}" for line in changed)
            raise StudyError(f"{directory}: holds another comparison:\n{lines}\ncompare in a new directory (--run-dir)")

    def _earlier(self, directory: Path) -> dict[str, Any]:
        """Return the settings of the directory, or the new ones where it has none."""
        if self._path.exists():
            return read_json(self._path)
        if is_run(directory / SEARCH):  # the search was stopped before the settings were written
            return {**self._values, **without_places(read_run(directory / SEARCH).config.as_dict())}
        values: dict[str, Any] = self._values
        return values

    def write(self) -> None:
        """Write the file; called when the first entry could be prepared.

        Raises:
            OSError: If it cannot be written.
        """
        write_json(self._path, self._values)
