"""Record when the trainings of a running search become known, without a change of the search."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.reach import Known
from nas.common.errors import NasError
from nas.common.files import write_atomically
from nas.run.directory import is_run, read_run, read_study
from nas.run.recipe_file import RECIPE, RecipeFile
from nas.run.reruns import RERUNS, RerunStore, read_simple_result
from nas.run.roles import DEFAULT
from nas.search.keys import RecipeKey
from nas.search.trial import Result

_LOOK_SECONDS = 5.0


@dataclass(frozen=True)
class Training:
    """A full training of a search, other than its linear classifier.

    Args:
        result: Its result.
        setting: The index of its setting of the recipe.
    """

    result: Result
    setting: int

    @property
    def name(self) -> str:
        """A name that no other training of the search has."""
        return f"{self.configuration} {self.result.key.name}"

    @property
    def configuration(self) -> str:
        """The architecture and the setting, in text."""
        genes = " ".join(f"{gene}={value}" for gene, value in self.result.architecture.as_dict().items())
        return f"{genes} setting={self.setting}"


def read_trainings(directory: Path) -> list[Training]:
    """Return all full trainings that a search has finished so far.

    Args:
        directory: The run directory.

    Raises:
        StudyError: If a file is damaged or cannot be read.
    """
    run, recipe = read_run(directory), RecipeFile(directory / RECIPE)
    default = read_simple_result(directory, DEFAULT)
    results = [
        *recipe.results(),
        *([] if default is None else [default]),
        *read_study(directory, run, warn=_ignore).results("full"),
        *RerunStore(directory / RERUNS).results(),
    ]
    chosen = recipe.chosen or 0
    return [Training(result, result.key.setting if isinstance(result.key, RecipeKey) else chosen) for result in results]


def _ignore(text: str) -> None:
    del text


class Timeline:
    """File with the running time of a search over all sessions, and the time at which each training was first seen.

    Times are those of the whole program, preparation included, and at most a few seconds too late.

    Args:
        directory: The run directory; the file is next to it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory, self._path = directory, directory.with_suffix(".times.json")
        stored: dict[str, Any] = json.loads(self._path.read_text()) if self._path.exists() else {}
        self._before: float = stored.get("seconds", 0.0)
        self._seen: dict[str, float] = stored.get("trainings", {})

    def known(self) -> list[Known]:
        """Return the score of every training that was seen, and when."""
        trainings = {training.name: training for training in read_trainings(self._directory)}
        return [
            Known(seconds, trainings[name].configuration, trainings[name].result.score)
            for name, seconds in self._seen.items()
        ]

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look at the run directory every few seconds."""
        began, ended = time.monotonic(), threading.Event()

        def watch() -> None:
            while not ended.wait(_LOOK_SECONDS):
                self._look(self._before + time.monotonic() - began)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self._look(self._before + time.monotonic() - began)

    def _look(self, seconds: float) -> None:
        if is_run(self._directory):
            try:
                for training in read_trainings(self._directory):
                    self._seen.setdefault(training.name, round(seconds, 3))
            except (NasError, OSError):
                return  # not all files are written yet; the next look finds them
        values = {"seconds": round(seconds, 3), "trainings": self._seen}
        write_atomically(self._path, json.dumps(values, indent=1).encode())
