from pathlib import Path

import pytest

from nas.common.errors import BudgetError, StudyError
from nas.run.arguments import parse_budget
from nas.run.time_budget import Deadlines, TimeAccount
from tests.support.factories import make_budget


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.mark.parametrize(("text", "expected"), [("4m", (240.0, None)), ("200", (None, 200)), ("2h", (7200.0, None))])
def test_budget_is_a_time_or_a_number_of_trials(text: str, expected: tuple[float | None, int | None]) -> None:
    assert parse_budget(text) == expected


@pytest.mark.parametrize("text", ["", "0", "-3", "4 minutes", "0s"])
def test_invalid_budget_is_refused(text: str) -> None:
    with pytest.raises(BudgetError, match=r"expected a time .* or a number of trials"):
        parse_budget(text)


def test_running_time_is_summed_over_sessions(tmp_path: Path) -> None:
    clock = Clock()
    first = TimeAccount(tmp_path / "time.json", clock)
    clock.seconds = 5
    first.start("candidates")
    clock.seconds = 15
    first.stop()
    clock.seconds = 100
    assert first.spent_seconds == 10
    second = TimeAccount(tmp_path / "time.json", clock)
    second.start("candidates")
    clock.seconds = 107
    assert second.spent_seconds == 17


def test_running_time_is_counted_by_phase(tmp_path: Path) -> None:
    clock = Clock()
    first = TimeAccount(tmp_path / "time.json", clock)
    first.start("supernet")
    clock.seconds = 3
    first.start("candidates")
    clock.seconds = 10
    first.stop()
    second = TimeAccount(tmp_path / "time.json", clock)
    second.start("candidates")
    clock.seconds = 12
    second.start("finalists")
    clock.seconds = 17
    assert second.phases == {"supernet": 3, "candidates": 9, "finalists": 5} and second.spent_seconds == 17


def test_time_of_a_killed_driver_is_counted_to_its_last_tick(tmp_path: Path) -> None:
    clock = Clock()
    killed = TimeAccount(tmp_path / "time.json", clock)
    killed.start("candidates")
    for second in range(30):
        clock.seconds = second
        killed.tick()
    assert 27 <= TimeAccount(tmp_path / "time.json", clock).spent_seconds <= 29


def test_damaged_account_is_named(tmp_path: Path) -> None:
    (tmp_path / "time.json").write_text("{}")
    with pytest.raises(StudyError, match=r"time\.json: is damaged"):
        TimeAccount(tmp_path / "time.json")


def test_every_phase_has_its_part_of_the_time() -> None:
    deadlines = Deadlines.of_fractions(make_budget(time_seconds=100.0, trials=None))
    assert (deadlines.supernet_seconds, deadlines.candidates_seconds, deadlines.total_seconds) == (20, 70, 100)
    assert deadlines.finalists_seconds == 85, "the rest of the time for full trainings is for the race"
    endless = Deadlines.of_fractions(make_budget())
    assert endless.supernet_seconds == endless.total_seconds == float("inf")
