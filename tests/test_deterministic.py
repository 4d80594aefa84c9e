"""`--deterministic` for real: the same trials, values and weights for any number of workers."""

import json
from pathlib import Path

import pytest

from nas.report import canonical_results
from nas.runs import open_study, read_run
from tests.project import Project, build_project
from tests.real_driver import RealDriver

pytestmark = pytest.mark.slow

MODELS = ("best", "default")


@pytest.fixture
def noisy_project(tmp_path: Path) -> Project:
    """One on which scores differ."""
    return build_project(tmp_path / "project", samples=240, colour_noise=200)


def test_the_study_and_the_exported_weights_are_the_same_for_any_number_of_workers(
    noisy_project: Project, tmp_path: Path
) -> None:
    source = noisy_project.write(
        "deterministic.yaml", **{"supernet.architectures_per_step": 2, "recipe.epochs": 1, "budget.trials": 8}
    )
    studies, weights = {}, {}
    for count in ("1", "2", "4"):
        run = tmp_path / f"run {count}"
        driver = RealDriver(
            *("search", source, "--deterministic", "--run-dir", run, "--workers", count),
            *("--cache-dir", tmp_path / "cache"),
            directory=tmp_path / f"driver {count}",
        )
        assert driver.finish() == 0, driver.errors
        with open_study(run, read_run(run)) as study:
            studies[count] = canonical_results(study)
        files = [run / "supernet.safetensors", *(run / role / "model.safetensors" for role in MODELS)]
        weights[count] = [path.read_bytes() for path in files]
    scores = [json.loads(line)["score"] for line in studies["1"].splitlines()]
    assert len(scores) == 8 + 4 + 2 and len(set(scores)) > 3  # or a difference would not show
    assert set(studies.values()) == {studies["1"]}
    assert all(contents == weights["1"] for contents in weights.values())
