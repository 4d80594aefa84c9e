"""A real driver with real Ray workers, killed by `kill -9`, and resumed; benchmarks/faults.py does it 100 times."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nas.runs import open_study, read_run
from tests.project import Project
from tests.real_driver import PHASES, TRIAL, RealDriver

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def started() -> Iterator[list[RealDriver]]:
    """Those of all tests; Ray's own processes notice within a minute that their driver was killed, and end."""
    started: list[RealDriver] = []
    yield started
    deadline = time.monotonic() + 120
    while (left := [driver.processes() for driver in started if driver.processes()]) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not left


@pytest.fixture
def drivers(started: list[RealDriver]) -> Iterator[list[RealDriver]]:
    """Those of a test."""
    drivers: list[RealDriver] = []
    yield drivers
    started += drivers


@pytest.mark.parametrize("phase", ["supernet", "finalists"])
def test_a_killed_search_ends_complete_with_nothing_finished_lost(
    project: Project, tmp_path: Path, drivers: list[RealDriver], phase: str
) -> None:
    source = project.write(
        f"killed_in_{phase}.yaml", **{"supernet.steps": 150, "recipe.epochs": 60, "search.finalists": 2}
    )
    run, common = tmp_path / "run", ["--cache-dir", tmp_path / "cache"]
    killed = RealDriver("search", source, "--run-dir", run, "--workers", "2", *common, directory=tmp_path / "killed")
    drivers.append(killed)
    assert killed.wait_for(PHASES[phase])
    killed.kill()
    assert "exported model" not in killed.output and not killed.errors

    resumed = RealDriver("resume", run, "--workers", "0", *common, directory=tmp_path / "resumed")
    drivers.append(resumed)
    assert resumed.finish() == 0, resumed.errors
    assert "exported model" in resumed.output
    said, later = (TRIAL.findall(driver.output) for driver in drivers)
    with open_study(run, read_run(run)) as study:
        assert [len(study.results(stage)) for stage in ("inherited", "trained", "full")] == [8, 4, 2]
        assert study.running == {} and study.rejections == []
        for trial, stage, score in said:
            kept = study.result(stage, int(trial))
            assert kept is not None and f"{kept.score:.4f}" == score
    assert not {entry[:2] for entry in said} & {entry[:2] for entry in later}


def test_killed_workers_end_neither_the_supernet_nor_the_search(
    project: Project, tmp_path: Path, drivers: list[RealDriver]
) -> None:
    source = project.write("killed_workers.yaml", **{"supernet.steps": 150, "supernet.architectures_per_step": 2})
    run = tmp_path / "run"
    common = ["--workers", "2", "--cache-dir", tmp_path / "cache"]
    driver = RealDriver("search", source, "--run-dir", run, *common, directory=tmp_path / "driver")
    drivers.append(driver)
    assert driver.wait_for(PHASES["supernet"])
    assert driver.kill_worker(0) and driver.kill_worker(1)
    assert driver.wait_for(PHASES["candidates"])
    assert driver.kill_worker(1)
    assert driver.finish() == 0, driver.errors
    assert "supernet: its worker was killed from outside; it goes on from its last checkpoint" in driver.output
    assert not driver.errors and "raylet" not in driver.output
    with open_study(run, read_run(run)) as study:
        assert [len(study.results(stage)) for stage in ("inherited", "trained", "full")] == [8, 4, 2]
        assert study.running == {} and study.rejections == []
