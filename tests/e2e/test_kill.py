"""A real driver with real Ray workers, killed by `kill -9` and resumed; tests/e2e/faults.py does so 100 times."""

import csv
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from nas.run.directory import open_study, read_run
from nas.search.trial import Stage
from tests.support.project import Project
from tests.support.real_driver import PHASES, RealDriver, finished_models

pytestmark = pytest.mark.slow

COMPARED = re.compile(r"^(\w+): learning rate ([\d.e-]+), seed (\d+): validation \w+ ([\d.]+),", re.MULTILINE)
"""Family, learning rate, seed and score of a training of a comparison that is reported as finished."""


@pytest.fixture(scope="module")
def started() -> Iterator[list[RealDriver]]:
    """All drivers of this module; Ray's own processes end within a minute after their driver was killed."""
    started: list[RealDriver] = []
    yield started
    deadline = time.monotonic() + 120
    while (left := [driver.processes() for driver in started if driver.processes()]) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not left


@pytest.fixture
def drivers(started: list[RealDriver]) -> Iterator[list[RealDriver]]:
    """The drivers of one test."""
    drivers: list[RealDriver] = []
    yield drivers
    started += drivers


@pytest.mark.long  # .ci/run itself kills and resumes a search of the demo
def test_search_killed_in_supernet_and_finalists_loses_no_finished_result(
    project: Project, tmp_path: Path, drivers: list[RealDriver]
) -> None:
    source = project.write("killed.yaml", **{"supernet.steps": 150, "recipe.epochs": 60, "search.finalists": 2})
    run = tmp_path / "run"
    common: list[str | Path] = ["--cache-dir", tmp_path / "cache", "--workers"]
    first = ("search", source, "--run-dir", run)
    for what, phase in ((first, "supernet"), (("resume", run), "finalists")):
        killed = RealDriver(*what, *common, "2", directory=tmp_path / f"killed in {phase}")
        drivers.append(killed)
        assert killed.wait_for(PHASES[phase])
        killed.kill()
        assert "Exported model" not in killed.output and not killed.errors

    resumed = RealDriver("resume", run, *common, "0", directory=tmp_path / "resumed")
    drivers.append(resumed)
    assert resumed.finish() == 0, resumed.errors
    assert "Exported model" in resumed.output
    reported = [entry for driver in drivers for entry in finished_models(driver.output)]
    with open_study(run, read_run(run)) as study:
        assert [len(study.results(stage)) for stage in ("one_shot", "short", "full")] == [8, 4, 2]
        assert study.running == {} and study.rejections == []
        for trial, stage, score in reported:
            if trial != "default":
                kept = study.result(cast(Stage, stage), int(trial))
                assert kept is not None and f"{kept.score:.3f}" == score
    keys = [entry[:2] for entry in reported]
    assert len(keys) == len(set(keys)), "nothing that was reported as finished was run again"


@pytest.mark.long
def test_search_survives_killed_workers(project: Project, tmp_path: Path, drivers: list[RealDriver]) -> None:
    source = project.write("killed_workers.yaml", **{"supernet.steps": 150, "supernet.architectures_per_step": 2})
    run = tmp_path / "run"
    common: list[str | Path] = ["--workers", "2", "--cache-dir", tmp_path / "cache"]
    driver = RealDriver("search", source, "--run-dir", run, *common, directory=tmp_path / "driver")
    drivers.append(driver)
    assert driver.wait_for(PHASES["supernet"])
    assert driver.kill_workers(2)
    assert driver.wait_for(PHASES["candidates"])
    assert driver.kill_workers(1)
    assert driver.finish() == 0, driver.errors
    assert "Supernet: its worker was killed from outside; resuming from its last checkpoint" in driver.output
    assert not driver.errors and "raylet" not in driver.output
    with open_study(run, read_run(run)) as study:
        assert [len(study.results(stage)) for stage in ("one_shot", "short", "full")] == [8, 4, 2]
        assert study.running == {} and study.rejections == []


@pytest.mark.long
def test_killed_and_interrupted_comparison_trains_nothing_twice(
    project: Project, tmp_path: Path, drivers: list[RealDriver]
) -> None:
    source = project.write(
        "killed_comparison.yaml", **{"compare": {"learning_rates": [1e-3, 1e-2]}, "recipe.epochs": 20}
    )
    directory = tmp_path / "comparison"
    common: list[str | Path] = ["--seeds", "2", "--run-dir", directory, "--cache-dir", tmp_path / "cache", "--workers"]
    for name, family in (("killed", "VPT"), ("interrupted", "MBT"), ("last", "")):
        what: list[str | Path] = ["compare", source, "--families", "vpt", "mbt", *common, "2" if family else "0"]
        driver = RealDriver(*what, directory=tmp_path / name)
        drivers.append(driver)
        if family:
            assert driver.wait_for(rf"^{family}: learning rate .* validation"), driver.errors
        if name == "killed":
            driver.kill()
        if name == "interrupted":
            driver.interrupt()
            assert driver.finish() == 130, driver.errors
            assert "Traceback" not in driver.errors
    assert drivers[-1].finish() == 0, drivers[-1].errors
    reported = [line for driver in drivers for line in COMPARED.findall(driver.output)]
    scores = {(title, float(rate), int(seed)): score for title, rate, seed, score in reported}
    assert len(scores) == len(reported) == 2 * (2 + 1), "both learning rates, and the better one with a second seed"
    with (directory / "comparison.csv").open() as file:
        for title, row in zip(("VPT", "MBT"), csv.DictReader(file), strict=True):
            for seed in range(2):
                kept = float(row[f"validation_accuracy_seed{seed}"])
                assert scores[title, float(row["learning_rate"]), seed] == f"{kept:.3f}"
