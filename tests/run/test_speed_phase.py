"""The measurement of the speed, without training."""

import io
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from nas.common.errors import StudyError
from nas.common.progress import LineReporter
from nas.run.phases.speed import SpeedPhase
from nas.run.speed import SPEED, TrainingSpeed, read_speed, write_speed
from nas.search.trial import Failure, Job
from nas.storage.study import Study
from tests.support.search_loop import Killed, SimulatedExecutor, build_context, config_with, peak_bytes


class Measuring:
    """Measures the speed, and counts the jobs that end.

    Args:
        directory: The run directory.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.jobs: list[Job] = []

    def run(
        self,
        slots: list[int],
        budget_bytes: int = 1000,
        fate: Callable[[Job], Failure | None] = lambda job: None,
        **changes: object,
    ) -> TrainingSpeed | None:
        config = config_with(budget__time="60s", **changes)

        def end(job: Job, grant: int) -> Failure | None:
            self.jobs.append(job)
            return fate(job)

        executor = SimulatedExecutor(slots, random.Random(0), fate=end)
        with Study(self._directory, config.space, name="run", config=config.as_dict()) as study:
            context = build_context(self._directory, config, study, executor, budget_bytes, LineReporter(io.StringIO()))
            return SpeedPhase(config.space.largest, self._directory).run(context)


@pytest.fixture
def measuring(tmp_path: Path) -> Measuring:
    return Measuring(tmp_path)


def test_all_workers_measure_at_once_and_only_in_the_first_session(measuring: Measuring, tmp_path: Path) -> None:
    speed = TrainingSpeed(0.5, 2.0, process_count=3, start_seconds=1.0)
    assert measuring.run([2, 1]) == read_speed(tmp_path) == speed
    assert {job.architecture for job in measuring.jobs} == {config_with().space.largest} and len(measuring.jobs) == 3
    assert measuring.run([3]) == speed and len(measuring.jobs) == 3


def test_another_number_of_workers_is_measured_again(measuring: Measuring) -> None:
    measuring.run([2])
    speed = measuring.run([4])
    assert speed is not None and speed.process_count == 4 and len(measuring.jobs) == 6


def test_as_many_are_measured_as_fit_and_the_smallest_where_the_default_does_not(measuring: Measuring) -> None:
    space = config_with().space
    speed = measuring.run([4], budget_bytes=2 * peak_bytes(space.largest))
    assert speed is not None and speed.process_count == 2
    measuring.run([4], budget_bytes=peak_bytes(space.largest) - 1)
    assert measuring.jobs[-1].architecture == space.smallest


def test_workers_that_fail_leave_the_speed_to_the_others(measuring: Measuring, tmp_path: Path) -> None:
    def fails(job: Job) -> Failure | None:
        return Failure(job, "error", "TrainingError", "diverged") if len(measuring.jobs) == 1 else None

    assert measuring.run([3], fate=fails) == TrainingSpeed(0.5, 2.0, process_count=3, start_seconds=1.0)
    assert read_speed(tmp_path) is not None


def test_measurement_that_was_killed_is_repeated(measuring: Measuring, tmp_path: Path) -> None:
    def kill(job: Job) -> Failure | None:
        raise Killed

    with pytest.raises(Killed):
        measuring.run([2], fate=kill)
    assert not (tmp_path / SPEED).exists()
    assert measuring.run([2]) is not None


@pytest.mark.parametrize(
    "speed", [TrainingSpeed(0.0, 1.0, 2), TrainingSpeed(1.0, float("inf"), 2), TrainingSpeed(1.0, 1.0, 2, -1.0)]
)
def test_stored_speed_that_cannot_be_is_named(tmp_path: Path, speed: TrainingSpeed) -> None:
    write_speed(tmp_path, speed)
    with pytest.raises(StudyError, match=r"speed\.json: is damaged: .* delete it to measure the speed again"):
        read_speed(tmp_path)
