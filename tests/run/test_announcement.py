"""The lines about a budget and about going on."""

from pathlib import Path

import pytest

from nas.config.schema import BudgetConfig
from nas.run.announcement import longer, used_up_line
from tests.support.search_file import make_search_config


def budget_of(time_seconds: float | None, trials: int | None) -> BudgetConfig:
    return make_search_config().budget.model_copy(update={"time_seconds": time_seconds, "trials": trials})


@pytest.mark.parametrize(
    ("time_seconds", "trials", "options"),
    [
        (360.0, None, "--budget 12m"),
        (30.0, None, "--budget 1m"),
        (20.0, None, "--budget 40s"),
        (45.0, None, "--budget 1m30s"),
        (3600.0, None, "--budget 2h"),
        (2700.0, 200, "--budget 1h30m --budget 400"),
        (None, 8, "--budget 16"),
    ],
)
def test_longer_search_has_twice_the_budget(time_seconds: float | None, trials: int | None, options: str) -> None:
    budget = budget_of(time_seconds, trials)
    assert longer(Path("runs/demo"), budget) == f"python run_search.py resume runs/demo {options}"


def test_used_up_budget_is_named() -> None:
    line = used_up_line(Path("runs/demo"), budget_of(360.0, 200))
    assert line.startswith("Nothing was left to do within 6m00s and 200 trials. To search longer: ")
