"""Full trainings with further seeds, of the best and of what it is compared with: how much of a score is luck."""

import json
from pathlib import Path

from nas.common.errors import StudyError
from nas.common.files import write_atomically
from nas.search.space import Architecture
from nas.search.trial import Result

CONFIRMATION = "confirmation.json"


class RerunStore:
    """Keeps full trainings that are no candidates of the search, each by its architecture and its number.

    Args:
        path: The file; read if it exists.

    Raises:
        StudyError: If the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._results: dict[tuple[Architecture, int], Result] = {}
        if not path.exists():
            return
        try:
            for entry in json.loads(path.read_text()):
                result = Result.from_dict(entry["result"])
                self._results[result.architecture, int(entry["repetition"])] = result
        except (ValueError, TypeError, KeyError) as error:
            raise StudyError(f"{path}: is damaged ({error}); delete it to have it made again") from error

    def get(self, architecture: Architecture, repetition: int) -> Result | None:
        """The training of that number, from 1; 0 is that of the search itself."""
        return self._results.get((architecture, repetition))

    def add(self, repetition: int, result: Result) -> None:
        """Keep one more for good.

        Raises:
            OSError: If the file cannot be written; the old one is then untouched.
        """
        self._results[result.architecture, repetition] = result
        entries = [{"repetition": number, "result": kept.as_dict()} for (_, number), kept in self._results.items()]
        write_atomically(self._path, json.dumps(entries, indent=1).encode())
