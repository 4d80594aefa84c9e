"""Ctrl-C and the deadline, with the whole program and real workers."""

import json
import math
import re
import time
from pathlib import Path

import pytest

from nas.run.directory import open_study, read_run
from tests.support.project import Project
from tests.support.real_driver import PHASES, RealDriver, finished_models

SAVED = re.compile(r"everything finished is saved\. Resume with: python \S*run_search\.py resume (.+)$", re.MULTILINE)


def wait_for_error(driver: RealDriver, text: str) -> None:
    while text not in driver.errors:
        assert driver.is_running, driver.errors
        time.sleep(0.01)


def spent_seconds(run: Path) -> float:
    return float(json.loads((run / "time.json").read_text())["spent_seconds"])


@pytest.mark.parametrize(
    "interruptions",
    [
        # The search of the next test is interrupted once, between candidates.
        pytest.param([("supernet", 2)], id="twice in the supernet", marks=pytest.mark.long),
        pytest.param([("supernet", 2), ("candidates", 1)], id="in both phases", marks=pytest.mark.long),
    ],
)
def test_a_search_interrupted_once_or_twice_in_any_phase_loses_nothing(
    project: Project, tmp_path: Path, interruptions: list[tuple[str, int]]
) -> None:
    source = project.write(
        "interrupted.yaml",
        **{
            "supernet.steps": 300,
            "supernet.architectures_per_step": 2,
            "recipe.batch_size": 4,
            "recipe.epochs": 7,
            "search.short_training_steps": 60,
            "search.finalists": 1,
            "budget.trials": 12,
        },
    )
    run = tmp_path / "run"
    common: list[str | Path] = ["--workers", "2", "--cache-dir", tmp_path / "cache"]
    reported: list[tuple[str, str, str]] = []
    for number, (phase, signals) in enumerate(interruptions, start=1):
        command = ("search", source, "--run-dir", run) if number == 1 else ("resume", run)
        driver = RealDriver(*command, *common, directory=tmp_path / f"driver {number}")
        assert driver.wait_for(PHASES[phase]), driver.errors
        if phase == "candidates":
            assert driver.wait_for(r"^#\d+ screened"), driver.errors
        driver.interrupt()
        if signals == 2:
            wait_for_error(driver, "Press Ctrl-C again to stop immediately.")
            driver.interrupt()
        assert driver.finish() == 130, driver.errors
        assert SAVED.findall(driver.errors) == [str(run)]
        assert "Traceback" not in driver.errors
        assert len(driver.errors.splitlines()) == 2
        assert driver.seconds_until_workers_end() is not None
        reported += finished_models(driver.output)

    driver = RealDriver("resume", run, "--workers", "0", *common[2:], directory=tmp_path / "last")
    assert driver.finish() == 0, driver.errors
    reported += finished_models(driver.output)
    keys = [entry[:2] for entry in reported]
    assert len(keys) == len(set(keys)) == 12 + 6 + 1 + 1  # including the default architecture of PMF
    with open_study(run, read_run(run)) as study:
        assert [len(study.results(stage)) for stage in ("one_shot", "short", "full")] == [12, 6, 1]
        assert study.running == {}
        assert study.rejections == []


@pytest.mark.long
def test_running_jobs_are_stopped_and_requeued_within_five_seconds_of_a_deadline(
    project: Project, tmp_path: Path
) -> None:
    source = project.write(
        "deadline.yaml",
        **{
            "recipe.epochs": 100_000,  # no training finishes
            "search.round_size": 2,
            "search.short_training_steps": 100_000,
            "budget.trials": None,
            "budget.time": "1000h",  # a budget that holds no training would be refused
        },
    )
    run, cache = tmp_path / "run", ("--workers", "2", "--cache-dir", tmp_path / "cache")
    first = RealDriver("search", source, "--run-dir", run, *cache, directory=tmp_path / "first")
    assert first.wait_for(r"^#\d+ screened"), first.errors
    first.interrupt()
    assert first.finish() == 130, first.errors
    seconds = math.ceil(spent_seconds(run)) + 40  # on a busy machine workers take half of it to start
    driver = RealDriver("resume", run, "--budget", f"{seconds}s", *cache, directory=tmp_path / "driver")
    assert driver.finish() == 0, driver.errors
    assert seconds <= spent_seconds(run) < seconds + 5.0
    # Nothing beats the linear classifier beyond chance without a complete training, so that may be the answer.
    assert "best, only screened" in driver.output and f"Exported model: {run / 'best'}" in driver.output
    with open_study(run, read_run(run)) as study:
        assert study.count("one_shot") >= 2
        assert study.count("short") == study.count("full") == 0
        assert study.rejections == []
