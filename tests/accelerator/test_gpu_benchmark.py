"""The measurements on a GPU in their short form."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.project import Project
from tests.support.simulated_accelerator import NAME

pytestmark = [pytest.mark.accelerator, pytest.mark.usefixtures("simulated")]


def measured(part: str, directory: Path) -> dict[str, Any]:
    path = directory / f"{part}.json"
    program = importlib.import_module(f"benchmarks.gpu.{part}")
    threads = torch.get_num_threads()
    try:
        assert program.main(["--short", "--device", NAME, "--json", str(path)]) == 0
    finally:
        torch.set_num_threads(threads)
    values: dict[str, Any] = json.loads(path.read_text())
    assert values["device"] == NAME and values["short"]
    return values


def test_steps_compute_the_same_logits(tmp_path: Path) -> None:
    cases = {case["precision"]: case for case in measured("steps", tmp_path)["cases"]}
    assert max(cases["float32"]["max_logit_difference"].values()) < 1e-3  # features are stored in float16
    for case in cases.values():
        assert set(case["seconds"]) == {"straightforward", "straightforward_stored", "fast", "fast_attention"}


def test_predicted_peaks_are_within_the_bars(tmp_path: Path) -> None:
    figures = measured("peaks", tmp_path)
    assert figures["median_error"] <= 0.03 and figures["largest_error"] <= 0.08
    assert {case["family"] for case in figures["cases"]} == {"pmf", "mbt", "late_concat"}


def test_memory_of_every_training_is_measured(tmp_path: Path) -> None:
    rows = measured("memory_table", tmp_path)["rows"]
    peaks = {name.partition(",")[0]: row["measured_bytes"] for name, row in rows.items()}
    assert peaks["fast"] < peaks["straightforward"] < peaks["full fine-tuning"]


def test_features_are_built_on_the_device(tmp_path: Path) -> None:
    assert measured("features", tmp_path)["build_samples_per_second"] > 0


def test_waiting_is_a_part_of_the_steps(tmp_path: Path) -> None:
    ways = measured("reading", tmp_path)["ways"]
    assert set(ways) == {"every layer, float16", "lowest layer, float16", "every layer, int8"}
    for figures in ways.values():
        assert 0 < figures["waiting_share"] < 1 and figures["read_seconds"] > 0


def test_search_trains_completely_within_the_tight_budget(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search_file = project.write("tight.yaml", **{"budget.trials": 2})
    monkeypatch.setattr("benchmarks.gpu.search.write_search_file", lambda directory, part: search_file)
    figures = measured("search", tmp_path)
    assert figures["fully_trained"] > 0 and not figures["failed"]
    assert figures["largest_measured_of_predicted"] <= 1
