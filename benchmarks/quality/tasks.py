"""The tasks of the comparison: those of the suite that have been built, or a few samples of the demo."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.models import few_samples
from benchmarks.suite.data_set import IMAGES, MANIFEST
from benchmarks.suite.tasks import TASKS
from nas.config.data_schema import DataConfig
from nas.config.load import parse_data

HIDDEN_TEST = "without_test.csv"
"""The manifest of searches, in which the test split is a copy of validation."""


@dataclass(frozen=True)
class BenchmarkTask:
    """A task of the comparison.

    Args:
        name: The name.
        values: The search file: the sections `data` with absolute paths, `encoders` and `search` with the objective.
    """

    name: str
    values: Mapping[str, Any]

    @property
    def objective(self) -> str:
        """The metric by which models are compared."""
        return str(self.values["search"]["objective"])

    @property
    def data(self) -> DataConfig:
        """The data with its own test split."""
        return parse_data(self.values["data"], source=self.name, base_directory=Path.cwd())

    def hidden(self, directory: Path) -> "BenchmarkTask":
        """Return the task with validation in place of the test split, so that no search has access to it.

        Args:
            directory: The folder of the task's runs, to which the manifest is written.
        """
        hidden = hide_test(Path(self.values["data"]["manifest"]), directory / HIDDEN_TEST)
        data = {**self.values["data"], "manifest": str(hidden.resolve()), "allow_duplicates": True}
        return BenchmarkTask(self.name, {**self.values, "data": data})


def hide_test(manifest: Path, target: Path) -> Path:
    """Write a manifest in which the test split is a copy of validation, and return its path.

    Args:
        manifest: The manifest of a task, with a column `split`.
        target: The file to write.
    """
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    kept = [row for row in rows if row["split"] != "test"]
    kept += [row | {"split": "test"} for row in rows if row["split"] == "validation"]
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(kept)
    return target


def suite_tasks(data: Path, names: Sequence[str]) -> tuple[list[BenchmarkTask], dict[str, str]]:
    """Return the tasks that have been built, and why the others are skipped.

    Args:
        data: The folder of all tasks, the `--output` of `benchmarks.suite.make`.
        names: The names of the wanted tasks.

    Returns:
        The tasks, and the reason for each name that is skipped.
    """
    found, skipped = [], {}
    for name in names:
        task, directory = TASKS[name], (data / name).resolve()
        encoder = task.image_encoder(data)
        missing = [path for path in (directory / MANIFEST, directory / IMAGES, encoder) if not path.exists()]
        if missing:
            skipped[name] = f"{missing[0]} is missing; benchmarks.suite.make builds it from {task.origin}"
            continue
        values = task.search_file(data)
        values["data"] |= {"manifest": str(directory / MANIFEST), "images": str(directory / IMAGES)}
        found.append(BenchmarkTask(name, values))
    return found, skipped


def quick_task(directory: Path) -> BenchmarkTask:
    """Return a task of four samples of each class and split of the demo's data.

    Args:
        directory: The folder for its manifest.
    """
    directory.mkdir(parents=True, exist_ok=True)
    data = few_samples(directory).data
    values = TASKS["clipart"].search_file(directory)
    values["data"] |= {"manifest": str(data.manifest), "images": str(data.images)}
    return BenchmarkTask("quick", values)
