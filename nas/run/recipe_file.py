"""Store the trainings with which settings of the recipe are tried, and the setting that was chosen."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas.common.sealed_json import read_sealed_json, write_sealed_json
from nas.search.keys import RecipeKey
from nas.search.recipe_tuning import SETTINGS, RecipeSetting
from nas.search.trial import Result

RECIPE = "recipe.json"


class RecipeFile:
    """File of the tried settings of the recipe. Once one is chosen, it is the setting of everything that follows.

    Args:
        path: The file; read if it exists.

    Raises:
        StudyError: If the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._results: dict[RecipeKey, Result] = {}
        self.failed: set[RecipeKey] = set()
        """The trainings that failed for good in this session; a later one tries them again."""
        self.chosen: int | None = None
        """The index of the chosen setting in `SETTINGS`; None until one is chosen."""
        if path.exists():
            self._results, self.chosen = read_sealed_json(
                path,
                _to_contents,
                expected="the tried settings of the recipe",
                remedy="restore a copy of it, or search in a new run directory (--run-dir)",
            )

    @property
    def setting(self) -> RecipeSetting:
        """The chosen setting; the recipe as configured before one is chosen."""
        return SETTINGS[self.chosen or 0]

    def scores(self) -> dict[tuple[int, int], float | None]:
        """Return the score of every training that has ended, by setting and seed; None if it failed."""
        found: dict[tuple[int, int], float | None] = {(key.setting, key.seed): None for key in self.failed}
        return found | {(key.setting, key.seed): result.score for key, result in self._results.items()}

    def results(self) -> list[Result]:
        """Return all trainings, in the order in which they were added."""
        return list(self._results.values())

    def add(self, key: RecipeKey, result: Result) -> None:
        """Store a training durably.

        Args:
            key: The key of the training.
            result: Its result.

        Raises:
            OSError: If the file cannot be written; the old one is then untouched.
        """
        self._results[key] = result
        self._write()

    def choose(self, setting: int) -> None:
        """Store the chosen setting durably.

        Args:
            setting: Its index in `SETTINGS`.

        Raises:
            OSError: If the file cannot be written; the old one is then untouched.
        """
        self.chosen = setting
        self._write()

    def _write(self) -> None:
        trainings = [result.as_dict() for result in self._results.values()]
        write_sealed_json(self._path, {"chosen": self.chosen, "trainings": trainings})


def _to_contents(values: Mapping[str, Any]) -> tuple[dict[RecipeKey, Result], int | None]:
    chosen = values["chosen"]
    results: dict[RecipeKey, Result] = {}
    for entry in values["trainings"]:
        result = Result.from_dict(entry)
        if not isinstance(result.key, RecipeKey):
            raise ValueError(f"{result.key.name}: not the key of a setting of the recipe")
        results[result.key] = result
    settings = [key.setting for key in results] + ([] if chosen is None else [chosen])
    for setting in settings:
        if type(setting) is not int or not 0 <= setting < len(SETTINGS):
            raise ValueError(f"setting: expected a number from 0 to {len(SETTINGS) - 1}, got {setting}")
    return results, chosen
