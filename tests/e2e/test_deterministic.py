"""`--deterministic` in real searches: equal trials, values and weights for any number of workers and after a kill."""

import json
from pathlib import Path

import pytest

from nas.run.directory import open_study, read_run
from nas.run.results_csv import canonical_results
from tests.support.project import Project, build_project
from tests.support.real_driver import RealDriver
from tests.support.weights import are_equal

pytestmark = pytest.mark.slow

MODELS = ("best", "default", "linear", "bilinear")


@pytest.fixture
def noisy_project(tmp_path: Path) -> Project:
    """A project on which scores differ."""
    return build_project(tmp_path / "project", samples=300, colour_noise=200)


def outcome(run: Path) -> tuple[str, list[bytes]]:
    """Return the canonical results of a run, and the bytes of its weights."""
    with open_study(run, read_run(run)) as study:
        results = canonical_results(study)
    exported = (path for role in MODELS for path in sorted((run / role).glob("*.safetensors")))
    files = [run / "supernet.safetensors", *exported]
    return results, [path.read_bytes() for path in files]


def scores(results: str) -> list[float]:
    return [json.loads(line)["score"] for line in results.splitlines()]


@pytest.mark.long
def test_study_and_exported_weights_are_equal_for_any_number_of_workers(noisy_project: Project, tmp_path: Path) -> None:
    source = noisy_project.write(
        "deterministic.yaml", **{"supernet.architectures_per_step": 2, "recipe.epochs": 1, "budget.trials": 8}
    )
    outcomes = {}
    for count in ("1", "2", "4"):
        run = tmp_path / f"run {count}"
        driver = RealDriver(
            *("search", source, "--deterministic", "--run-dir", run, "--workers", count),
            *("--cache-dir", tmp_path / "cache"),
            directory=tmp_path / f"driver {count}",
        )
        assert driver.finish() == 0, driver.errors
        outcomes[count] = outcome(run)
    found = scores(outcomes["1"][0])
    assert len(found) == 8 + 4 + 2 and len(set(found)) > 3  # a difference could not be seen otherwise
    assert outcomes["2"] == outcomes["1"] and outcomes["4"] == outcomes["1"]


@pytest.mark.long
def test_study_and_exported_weights_are_equal_after_a_kill_with_free_genes_and_a_front(
    noisy_project: Project, tmp_path: Path
) -> None:
    source = noisy_project.write(
        "free.yaml",
        **{
            "space.num_layers": 3,
            "space.query_prompts": {"choices": [1, 2], "per": "layer_and_direction"},
            "space.mapping_width": {"choices": [4, 8], "per": "layer"},
            "supernet.architectures_per_step": 3,
            "supernet.sampling": "sandwich",
            "supernet.distillation": 0.5,
            "search.strategy": "nsga2",
            "search.objective": ["accuracy", "trainable_parameters"],
            "search.rerun_seeds": 2,
            "search.distill": True,
            "recipe.epochs": 1,
        },
    )
    cache = ("--cache-dir", tmp_path / "cache")
    first, second = tmp_path / "undisturbed", tmp_path / "killed"
    serial = RealDriver(
        "search", source, "--deterministic", "--run-dir", first, "--workers", "0", *cache, directory=tmp_path / "serial"
    )
    assert serial.finish() == 0, serial.errors
    killed = RealDriver(
        "search", source, "--deterministic", "--run-dir", second, "--workers", "2", *cache, directory=tmp_path / "first"
    )
    assert killed.wait_for(r"^#5 screened")
    killed.kill()
    resumed = RealDriver("resume", second, "--workers", "1", *cache, directory=tmp_path / "second")
    assert resumed.finish() == 0, resumed.errors
    assert outcome(second) == outcome(first)
    assert are_equal(first / "distilled", second / "distilled")
    reports = [json.loads((run / "reliability.json").read_text()) for run in (first, second)]
    for entry in reports:
        del entry["phases"], entry["crc32"]  # measured, and the checksum of all values
        entry["verdict"] = [line for line in entry["verdict"] if not line.startswith("time: ")]
    assert reports[0] == reports[1]
    assert len(set(scores(outcome(first)[0]))) > 3
