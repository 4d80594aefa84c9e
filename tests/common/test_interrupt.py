"""Ctrl-C, once and twice, and the deadline."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest

from nas.common.interrupt import interruptible
from nas.run.directory import open_study, read_run
from tests.support.project import Project
from tests.support.real_driver import PHASES, TRIAL, RealDriver

RESUME = re.compile(r"^interrupted; everything finished is saved; go on with: python run_search\.py resume (.+)$", re.M)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_request_and_the_second_ends_it(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    with interruptible() as interruption:
        assert not interruption.is_requested
        os.kill(os.getpid(), number)
        assert interruption.is_requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before
    assert capfd.readouterr().err.count("once more stops now") == 1


class InterruptedInItsFinaliser:
    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)


def test_a_second_signal_that_comes_in_a_finaliser_is_neither_lost_nor_printed(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with interruptible() as interruption:
        interruption.request()
        InterruptedInItsFinaliser()
        with pytest.raises(KeyboardInterrupt):
            time.sleep(60.0)
    assert capfd.readouterr().err == ""


class FailsInItsFinaliser:
    def __del__(self) -> None:
        raise ValueError("not an interruption")


def test_other_errors_of_finalisers_are_shown_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", lambda error: shown.append(error.exc_type))
    with interruptible():
        FailsInItsFinaliser()
    assert shown == [ValueError]


@pytest.mark.slow
def test_a_search_interrupted_once_and_twice_in_supernet_and_candidates_loses_nothing(
    project: Project, tmp_path: Path
) -> None:
    source = project.write(
        "interrupted.yaml",
        **{
            "supernet.steps": 300,
            "supernet.architectures_per_step": 2,
            "recipe.batch_size": 4,
            "search.short_training_steps": 60,
            "search.finalists": 1,
            "budget.trials": 12,
        },
    )
    run = tmp_path / "run"
    common = ["--workers", "2", "--cache-dir", tmp_path / "cache"]
    said: list[tuple[str, str, str]] = []
    for number, (phase, times) in enumerate([("supernet", 2), ("candidates", 1)], start=1):
        what = ("search", source, "--run-dir", run) if number == 1 else ("resume", run)
        driver = RealDriver(*what, *common, directory=tmp_path / f"driver {number}")
        assert driver.wait_for(PHASES[phase]), driver.errors
        time.sleep(1.0)  # in the middle of it
        assert driver.phase == phase
        asked_at = time.monotonic()
        driver.interrupt()
        if times == 2:
            time.sleep(0.1)
            driver.interrupt()
        assert driver.finish() == 130, driver.errors
        assert time.monotonic() - asked_at < 20.0
        assert RESUME.findall(driver.errors) == [str(run)]
        assert "Traceback" not in driver.errors and len(driver.errors.splitlines()) == 2
        assert driver.seconds_until_workers_end() is not None
        said += TRIAL.findall(driver.output)

    driver = RealDriver("resume", run, "--workers", "0", *common[2:], directory=tmp_path / "last")
    assert driver.finish() == 0, driver.errors
    said += TRIAL.findall(driver.output)
    keys = [entry[:2] for entry in said]
    assert len(keys) == len(set(keys)) == 12 + 6 + 1 + 1  # PMF's default too
    with open_study(run, read_run(run)) as study:
        assert [len(study.results(stage)) for stage in ("one_shot", "short", "full")] == [12, 6, 1]
        assert study.running == {} and study.rejections == []


@pytest.mark.slow
def test_what_runs_at_a_deadline_is_stopped_within_five_seconds_and_put_back(project: Project, tmp_path: Path) -> None:
    source = project.write(
        "deadline.yaml",
        **{
            "recipe.epochs": 100_000,  # nobody is ever ready
            "search.round_size": 2,
            "search.short_training_steps": 100_000,
            "budget.trials": None,
            "budget.time": "56s",  # on a busy machine workers take a third of it to start
            "budget.supernet_fraction": 0.5,
            "budget.finalists_fraction": 0.25,
        },
    )
    run = tmp_path / "run"
    driver = RealDriver(
        *("search", source, "--run-dir", run, "--workers", "2", "--cache-dir", tmp_path / "cache"),
        directory=tmp_path / "driver",
    )
    assert driver.wait_for(PHASES["candidates"])
    started_at = time.monotonic()
    spent = re.findall(r"^supernet: .* (\d+)s spent", driver.output, re.MULTILINE)
    assert driver.wait_for(PHASES["finalists"])
    candidates_end = float(spent[0]) + time.monotonic() - started_at
    assert 42.0 - 1.0 < candidates_end < 42.0 + 5.0 + 1.0  # the seconds spent are told rounded
    assert driver.finish() == 0, driver.errors
    assert 56.0 <= json.loads((run / "time.json").read_text())["spent_seconds"] < 56.0 + 5.0
    assert "No candidate was trained completely within the budget" in driver.output
    with open_study(run, read_run(run)) as study:
        assert study.count("one_shot") >= 2 and study.count("short") == study.count("full") == 0
        assert study.rejections == []
