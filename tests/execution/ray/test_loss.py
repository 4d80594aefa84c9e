"""Ray itself is lost: one of the processes that workers and driver cannot do without is killed."""

import os
import shutil
import signal
import stat
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from nas.common.errors import ExecutionError
from nas.execution.base import JobOutcome, SupernetJob, WorkerLost
from nas.execution.placement import Placement
from nas.execution.ray.executor import RayExecutor
from nas.execution.ray.loss import LossGuard, RayLost
from nas.execution.ray.session import RaySession
from nas.execution.temporary_place import TEMPORARY_PREFIX
from nas.execution.worker_setup import WorkerSetup
from nas.search.trial import Result
from tests.support.factories import make_job
from tests.support.jobs import GRANT_BYTES, submit, wait_for_outcomes, wait_until
from tests.support.processes import descendants


def kill(name: str) -> None:
    """Kill the process of Ray with a name, and wait for its end."""
    (process,) = [process for process, command in descendants().items() if Path(command.split()[0]).name == name]
    os.kill(process, signal.SIGKILL)


def slow_start(**options: object) -> None:
    """Fail as `ray.init` does if its processes take too long."""
    raise Exception("The current node timed out")


def has_worker() -> bool:
    return any(command.startswith("ray::WorkerActor") for command in descendants().values())


@pytest.mark.slow  # each loss costs the start of another Ray
def test_lost_private_ray_is_started_again_and_loses_no_job(
    setup: WorkerSetup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(setup.run_directory, tmp_path / "run")
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    monkeypatch.setenv("TMPDIR", str(place))
    notes: list[str] = []
    executor = RayExecutor(
        replace(setup, run_directory=tmp_path / "run"),
        placement=Placement(1, most_by_memory=1, threads=1),
        on_note=notes.append,
    )
    try:
        (directory,) = place.glob(f"{TEMPORARY_PREFIX}*")
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        submit(executor, make_job(stage="full", step_count=1_000_000))
        wait_until(has_worker)
        kill("raylet")
        ended: list[JobOutcome] = []
        while not ended:
            ended = executor.wait(1.0)
        assert [(entry.job.trial, entry.outcomes, entry.process_lives) for entry in ended] == [(0, (), False)]
        assert len(notes) == 1 and "its process raylet has ended" in notes[0]
        submit(executor, make_job(trial=1))
        assert isinstance(wait_for_outcomes(executor, 1)[0], Result)
        kill("gcs_server")
        with pytest.raises(WorkerLost, match="lost with Ray"):
            executor.train_supernet(
                SupernetJob(None, {}, 0),
                processes={executor.devices[0].name: 1},
                grant_bytes=GRANT_BYTES,
                should_stop=lambda: False,
                on_progress=lambda progress: None,
            )
        kill("raylet")
        submit(executor, make_job(trial=2))
        executor.stop_when(lambda: True)
        assert [entry.job.trial for entry in executor.stop_running()] == [2], "nothing is started at the end"
        assert len(notes) == 2
        monkeypatch.setattr("ray.init", slow_start)
        executor.stop_when(lambda: False)
        with pytest.raises(ExecutionError, match=r"Ray: cannot be started: The current node timed out; .*--workers 0"):
            executor.wait(1.0)
        assert executor.stop_running() == []
    finally:
        executor.close()
    assert list(place.iterdir()) == []
    place.rmdir()


class LostSession(RaySession):
    """A Ray that is lost after each start."""

    def __init__(self) -> None:
        super().__init__(is_own=True)
        self.start_count = 0

    def loss(self) -> str | None:
        return "it is lost"

    def restart(self) -> None:
        self.start_count += 1

    def close(self) -> None:
        pass


def test_ray_that_is_lost_again_and_again_ends_the_search_with_one_error() -> None:
    session = LostSession()
    guard = LossGuard(session, on_note=lambda text: None)
    for _ in range(3):
        guard.restart(RayLost("it is lost"))
    with pytest.raises(ExecutionError, match=r"lost 4 times in succession: it is lost; .* saved; resume"):
        guard.restart(RayLost("it is lost"))
    assert session.start_count == 3
    guard.settle()
    guard.restart(RayLost("it is lost"))


def test_errors_of_a_lost_ray_are_the_loss_and_others_are_not() -> None:
    session = LostSession()
    guard = LossGuard(session, on_note=lambda text: None)
    with pytest.raises(RayLost), guard.noticing():
        raise AssertionError("not called")
    losses = iter([None, "it is lost"])
    session.loss = lambda: next(losses)  # type: ignore[method-assign]
    with pytest.raises(RayLost, match="it is lost"), guard.noticing():
        raise ValueError("min() arg is an empty sequence")
    session.loss = lambda: None  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="min"), guard.noticing():
        raise ValueError("min() arg is an empty sequence")
