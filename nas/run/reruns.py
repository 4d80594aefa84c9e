"""Store trainings that are not candidates of a search: default, linear classifier, and reruns with new seeds."""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from nas.common.sealed_json import read_sealed_json, write_sealed_json
from nas.run.roles import SIMPLE_MODELS
from nas.search.keys import ModelKey, RerunKey
from nas.search.space import Architecture
from nas.search.trial import Result

RERUNS = "reruns.json"
DISTILLED = "distilled.json"
_REMEDY = "delete it to repeat its trainings"


class RerunStore:
    """File of full trainings that are not candidates of a search, each by its architecture and key.

    A rerun of the best architecture counts for the default as well, where that is the same architecture.

    Args:
        path: The file; read if it exists.

    Raises:
        StudyError: If the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._results: dict[tuple[Architecture, Hashable], Result] = {}
        if path.exists():
            for result in read_sealed_json(path, _to_results, expected="results of trainings", remedy=_REMEDY):
                self._results[result.architecture, _slot(result.key)] = result

    def get(self, architecture: Architecture, key: ModelKey) -> Result | None:
        """Return one training; None if it has no result.

        Args:
            architecture: The architecture that was trained.
            key: The key of the training.
        """
        return self._results.get((architecture, _slot(key)))

    def results(self) -> list[Result]:
        """Return all trainings, in the order in which they were added."""
        return list(self._results.values())

    def add(self, result: Result) -> None:
        """Store a training durably.

        Args:
            result: The result of the training.

        Raises:
            OSError: If the file cannot be written; the old one is then untouched.
        """
        self._results[result.architecture, _slot(result.key)] = result
        write_sealed_json(self._path, {"trainings": [stored.as_dict() for stored in self._results.values()]})


def further_count(directory: Path) -> int:
    """Return the number of trainings of a run with further seeds, and of distilled models.

    Args:
        directory: The run directory.

    Raises:
        StudyError: If a file is damaged.
    """
    return sum(len(RerunStore(directory / name).results()) for name in (RERUNS, DISTILLED))


def _to_results(values: Mapping[str, Any]) -> list[Result]:
    return [Result.from_dict(entry) for entry in values["trainings"]]


def _slot(key: ModelKey) -> Hashable:
    """Return what distinguishes a training from others of its architecture."""
    return key.number if isinstance(key, RerunKey) else key


def simple_result_path(directory: Path, role: str) -> Path:
    """Return the file of the first training of a simpler model.

    Args:
        directory: The run directory.
        role: The role of the model.
    """
    return directory / f"{role}.json"


def write_simple_result(directory: Path, result: Result) -> None:
    """Store the first training of a simpler model durably.

    Args:
        directory: The run directory.
        result: Its result, with the key of the model.

    Raises:
        OSError: If the file cannot be written.
    """
    write_sealed_json(simple_result_path(directory, result.key.name), result.as_dict())


def read_simple_result(directory: Path, role: str) -> Result | None:
    """Return the stored first training of a simpler model; None if there is none.

    Args:
        directory: The run directory.
        role: The role of the model.

    Raises:
        StudyError: If the file is damaged.
    """
    path = simple_result_path(directory, role)
    if not path.exists():
        return None
    return read_sealed_json(path, Result.from_dict, expected="the result of a training", remedy=_REMEDY)


def read_simple_results(directory: Path) -> dict[str, Result]:
    """Return the stored first trainings of the simpler models, by their roles, the simplest first.

    Args:
        directory: The run directory.

    Raises:
        StudyError: If the file of one is damaged.
    """
    found = {model.role: read_simple_result(directory, model.role) for model in SIMPLE_MODELS}
    return {role: result for role, result in found.items() if result is not None}
