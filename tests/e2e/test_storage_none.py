"""Searches and comparisons of which no tokens are stored, with real workers that decode the images of every batch."""

import csv
from pathlib import Path

import pytest

from tests.support.project import Project
from tests.support.real_driver import RealDriver

pytestmark = [pytest.mark.slow, pytest.mark.long]


def test_workers_search_and_compare_without_stored_tokens(project: Project, tmp_path: Path) -> None:
    source = project.write(
        "none.yaml",
        features={"storage": "none"},
        compare={"learning_rates": [1e-2]},
        **{"recipe.epochs": 1, "budget.trials": 3, "search.finalists": 1},
    )
    common = ("--workers", "2", "--cache-dir", tmp_path / "cache", "--run-dir")
    search = RealDriver("search", source, *common, tmp_path / "run", directory=tmp_path / "search")
    assert search.finish() == 0, search.errors
    assert "Encoder outputs are not cached (features.storage: none)" in search.output
    with (tmp_path / "run" / "results.csv").open() as file:
        stages = [row["stage"] for row in csv.DictReader(file) if row["status"] == "finished"]
    assert stages.count("one_shot") == 3 and "short" in stages and "full" in stages

    families = ("--families", "mbt", "--seeds", "1")
    comparison = RealDriver("compare", source, *families, *common, tmp_path / "all", directory=tmp_path / "compare")
    assert comparison.finish() == 0, comparison.errors
    with (tmp_path / "all" / "comparison.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["name"] == "mbt" and 0 <= float(row["test_accuracy_seed0"]) <= 1
