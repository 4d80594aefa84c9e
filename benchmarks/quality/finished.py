"""Finished cells as small files, from which all figures follow even where the runs themselves are gone.

A file holds the facts of a cell and how often each of its models is right, picture by picture; no model and no sample.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.mapping import mapped
from benchmarks.quality.cells import FRESH, Cell
from benchmarks.quality.predictions import Counts, counted
from benchmarks.quality.roles import ENSEMBLE, SINGLE, exported, fresh_models, read_facts
from benchmarks.quality.tasks import BenchmarkTask
from nas.common.files import write_atomically
from nas.run.roles import LINEAR

ANSWER = "answer"


@dataclass(frozen=True)
class FinishedCell:
    """What figures need of a finished cell.

    Args:
        facts: What is known of its run; see `benchmarks.quality.roles`.
        counts: The counts of its models by their names.
    """

    facts: Mapping[str, Any]
    counts: Mapping[str, Counts]


class FinishedCells:
    """The folder of finished cells.

    Args:
        directory: The folder, which is made with the first cell.
        split: The split on which models are asked; each has files of its own.
        budget: The section `budget` of the searches.
    """

    def __init__(self, directory: Path, split: str, budget: Mapping[str, Any]) -> None:
        self._directory = directory
        self._split = split
        self._budget = dict(budget)

    def has(self, cell: Cell) -> bool:
        """Return whether a cell is finished.

        Args:
            cell: The cell.
        """
        return self._path(cell).exists()

    def add(self, cell: Cell, finished: FinishedCell) -> None:
        """Write the file of a cell.

        Args:
            cell: The cell.
            finished: What is known of it.
        """
        counts = {name: values.astype(int).tolist() for name, values in finished.counts.items()}
        content = {"budget": self._budget, "split": self._split, "facts": finished.facts, "counts": counts}
        path = self._path(cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(content).encode())

    def read(self, cell: Cell) -> FinishedCell:
        """Return what is known of a finished cell.

        Args:
            cell: The cell.

        Raises:
            SystemExit: If it is of searches with another budget.
        """
        path = self._path(cell)
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["budget"] != self._budget:
            raise SystemExit(
                f"{path}: budget: is of searches with another one; expected {self._budget}, got {content['budget']}; "
                f"give another --cells"
            )
        counts = {name: np.array(values, dtype=np.float64) for name, values in content["counts"].items()}
        return FinishedCell(content["facts"], counts)

    def _path(self, cell: Cell) -> Path:
        return self._directory / self._split / cell.task / f"{cell.role}-{cell.seed}.json"


def ask_models(cell: Cell, task: BenchmarkTask, runs: Path, *, split: str, is_quick: bool) -> FinishedCell:
    """Ask the models of a cell that has been run about every sample of a split.

    Args:
        cell: The cell.
        task: Its task.
        runs: The folder of all runs.
        split: The split.
        is_quick: Whether to compute in this process.
    """
    facts = read_facts(cell.directory(runs))
    models = models_of(cell, runs, facts["answer"])
    places = list(dict.fromkeys(models.values()))
    work = [(task.data, split, task.objective, place) for place in places]
    counts = dict(zip(places, mapped(counted, work, is_quick=is_quick or len(work) < 2), strict=True))
    return FinishedCell(facts, {name: counts[place] for name, place in models.items()})


def models_of(cell: Cell, runs: Path, answer: str) -> dict[str, Path]:
    """Return the folders of a cell's models by the names that figures use.

    Args:
        cell: The cell.
        runs: The folder of all runs.
        answer: The role of the model that is the answer.
    """
    directory = cell.directory(runs)
    if cell.role == FRESH:
        return {path.name: path for path in fresh_models(directory)}
    models = exported(directory)
    prefix = "" if cell.role == "search" else f"{cell.role}_"
    named = {prefix + kind: models[kind] for kind in (SINGLE, ENSEMBLE)} | {prefix + ANSWER: models[answer]}
    return named | ({LINEAR: models[LINEAR]} if cell.role == "search" else {})
