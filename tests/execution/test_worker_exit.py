"""Why a worker process has died, for processes that really die."""

import ctypes
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from nas.execution.worker_exit import ExitRecord, WorkerExit, memory_kill_count, read_worker_exit

SURVIVED = 77


def exit_of(act: Callable[[ExitRecord], object], path: Path, *, was_memory_killed: bool = False) -> WorkerExit:
    """Return the exit that is read for a process that has begun its record and then acted."""
    leave = os._exit
    child = os.fork()
    if child == 0:
        record = ExitRecord(path)
        record.begin()
        act(record)
        leave(SURVIVED)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) not in {0, SURVIVED}
    return read_worker_exit(path, was_memory_killed=was_memory_killed)


@pytest.mark.parametrize(
    ("crash", "cause"),
    [
        (lambda record: ctypes.string_at(0), "Fatal Python error: Segmentation fault"),
        (lambda record: os.abort(), "Fatal Python error: Aborted"),
        (lambda record: signal.raise_signal(signal.SIGFPE), "Fatal Python error: Floating point exception"),
    ],
)
def test_crash_is_attributed_to_the_candidate_with_its_place(
    tmp_path: Path, crash: Callable[[ExitRecord], object], cause: str
) -> None:
    found = exit_of(crash, tmp_path / "records" / "1.json")
    assert (found.kind, found.cause) == ("crash", cause)
    assert found.reason.startswith(f"its worker crashed: {cause} in File ")


def test_exit_during_a_job_is_attributed_to_the_candidate(tmp_path: Path) -> None:
    found = exit_of(lambda record: os._exit(3), tmp_path / "1.json")
    assert found == WorkerExit("crash", "exit", "its worker exited with status 3")


def test_kill_without_a_record_comes_from_outside(tmp_path: Path) -> None:
    found = exit_of(lambda record: os.kill(os.getpid(), signal.SIGKILL), tmp_path / "1.json")
    assert found == WorkerExit("killed_externally", "killed", "its worker was killed from outside")


def test_kill_by_the_out_of_memory_killer_is_out_of_memory(tmp_path: Path) -> None:
    found = exit_of(lambda record: os.kill(os.getpid(), signal.SIGKILL), tmp_path / "1.json", was_memory_killed=True)
    assert (found.kind, found.measured_peak_bytes) == ("memory", None)


def test_kills_of_the_out_of_memory_killer_are_counted(tmp_path: Path) -> None:
    counters = tmp_path / "vmstat"
    counters.write_text("nr_free_pages 5\noom_kill 3\noom_kill_other 9\n")
    assert memory_kill_count(counters) == 3
    counters.write_text("nr_free_pages 5\n")
    assert memory_kill_count(counters) == 0
    assert memory_kill_count(tmp_path / "missing") == 0


def test_excess_over_the_grant_is_recorded_with_the_measured_bytes(tmp_path: Path) -> None:
    found = exit_of(lambda record: record.end_for_memory(3 * 2**30, 2**30), tmp_path / "1.json")
    reason = "its worker held 3.00 GiB of memory, but was granted 1.00 GiB"
    assert found == WorkerExit("memory", "out of memory", reason, 3 * 2**30)


def test_worker_without_a_record_was_killed_from_outside(tmp_path: Path) -> None:
    assert read_worker_exit(tmp_path / "never.json", was_memory_killed=False).kind == "killed_externally"


def test_partial_record_means_that_the_worker_exited(tmp_path: Path) -> None:
    (tmp_path / "1.json").write_text('{"kind": "ex')
    assert read_worker_exit(tmp_path / "1.json", was_memory_killed=False).kind == "crash"
