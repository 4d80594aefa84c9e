"""The files of a comparison."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from nas.common.errors import StudyError
from nas.common.sealed_json import as_stored, read_sealed_json, write_sealed_json
from nas.config.diff import differences
from nas.config.places import without_places
from nas.config.schema import Config
from nas.run.directory import is_run, read_run

SETTINGS, LOCK, SEARCH, FOUND = "comparison.json", "driver.lock", "search", "found.json"
"""Files of the comparison: its settings, its lock, the run directory of its search, and what that has found."""

FACTS, TRAININGS, FAILURES, TESTS = "facts.json", "trainings.json", "failures.json", "tests.json"
"""Files of one entry: its data and architecture, its trainings, its failures, and its test metrics."""

_Content = TypeVar("_Content")


_REMEDIES = {
    SETTINGS: "compare in a new directory (--run-dir)",  # without them, the scores cannot be attributed
    FACTS: "delete the folder it is in to train its entry again",
}


def read_stored(path: Path, build: Callable[[dict[str, Any]], _Content]) -> _Content:
    """Read a file of a comparison; without values if it does not exist.

    Args:
        path: The file.
        build: Function that builds the content from the values; see `read_sealed_json`.

    Raises:
        StudyError: If it is damaged or was changed.
    """
    if not path.exists():
        return build({})
    remedy = _REMEDIES.get(path.name, "delete it to recreate it")
    return read_sealed_json(path, build, expected="a file that `compare` has written", remedy=remedy)


def check_directory(directory: Path, settings: str = SETTINGS, what: str = "comparison") -> None:
    """Check that a directory is new or holds a comparison.

    Args:
        directory: The directory of the comparison, which may exist.
        settings: The file of its settings.
        what: The name of what it may hold, for messages.

    Raises:
        StudyError: If it holds other files.
    """
    if not directory.exists() or (directory / settings).exists():
        return
    # A search that was stopped leaves its files before the settings are written; a process that is killed while it
    # writes a file leaves a temporary one.
    known = {LOCK, SEARCH, FOUND}
    half_written = tuple(f".{name}." for name in (settings, FOUND))
    if any(path.name not in known and not path.name.startswith(half_written) for path in directory.iterdir()):
        raise StudyError(
            f"{directory}: is not empty and holds no {what}; expected an empty or new directory (--run-dir)"
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
        self._path, self._values = directory / SETTINGS, as_stored(values)
        changed = differences(self._earlier(directory), self._values)
        if changed:
            lines = "\n".join(f"  - {line}" for line in changed)
            raise StudyError(f"{directory}: holds another comparison:\n{lines}\ncompare in a new directory (--run-dir)")

    def _earlier(self, directory: Path) -> dict[str, Any]:
        """Return the settings of the directory, or the new ones where it has none."""
        if self._path.exists():
            return read_stored(self._path, dict)
        if is_run(directory / SEARCH):  # the search was stopped before the settings were written
            return {**self._values, **without_places(read_run(directory / SEARCH).config.as_dict())}
        values: dict[str, Any] = self._values
        return values

    def write(self) -> None:
        """Write the file; called when the first entry could be prepared.

        Raises:
            OSError: If it cannot be written.
        """
        write_sealed_json(self._path, self._values)
