"""What is found out about a worker process that died, from processes that really do."""

import ctypes
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from nas.execution.worker_exit import ExitRecord, WorkerExit, memory_kill_count, read_worker_exit

UNHARMED = 77


def death_of(act: Callable[[ExitRecord], object], path: Path, *, was_memory_killed: bool = False) -> WorkerExit:
    """What is read of a process that has begun its note and then did something."""
    leave = os._exit
    child = os.fork()
    if child == 0:
        note = ExitRecord(path)
        note.begin()
        act(note)
        leave(UNHARMED)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) not in {0, UNHARMED}
    return read_worker_exit(path, was_memory_killed=was_memory_killed)


@pytest.mark.parametrize(
    ("crash", "cause"),
    [
        (lambda note: ctypes.string_at(0), "Fatal Python error: Segmentation fault"),
        (lambda note: os.abort(), "Fatal Python error: Aborted"),
        (lambda note: signal.raise_signal(signal.SIGFPE), "Fatal Python error: Floating point exception"),
    ],
)
def test_a_crash_is_the_candidates_own_and_says_where(
    tmp_path: Path, crash: Callable[[ExitRecord], object], cause: str
) -> None:
    death = death_of(crash, tmp_path / "notes" / "1.json")
    assert (death.kind, death.cause) == ("crash", cause)
    assert death.reason.startswith(f"its worker crashed: {cause} in File ")


def test_an_exit_in_the_middle_of_a_job_is_the_candidates_own(tmp_path: Path) -> None:
    death = death_of(lambda note: os._exit(3), tmp_path / "1.json")
    assert death == WorkerExit("crash", "exit", "its worker ended itself with status 3")


def test_a_kill_from_outside_is_nobodys_doing(tmp_path: Path) -> None:
    death = death_of(lambda note: os.kill(os.getpid(), signal.SIGKILL), tmp_path / "1.json")
    assert death == WorkerExit("killed_externally", "killed", "its worker was killed from outside")


def test_a_kill_by_the_systems_memory_killer_is_want_of_memory(tmp_path: Path) -> None:
    death = death_of(lambda note: os.kill(os.getpid(), signal.SIGKILL), tmp_path / "1.json", was_memory_killed=True)
    assert (death.kind, death.measured_peak_bytes) == ("memory", None)
    assert memory_kill_count() >= 0


def test_the_watchdogs_word_is_kept_with_what_it_measured(tmp_path: Path) -> None:
    death = death_of(lambda note: note.end_for_memory(3 * 2**30, 2**30), tmp_path / "1.json")
    assert death == WorkerExit("memory", "out of memory", "its worker held 3.00 GiB, granted were 1.00 GiB", 3 * 2**30)


def test_a_worker_that_never_got_so_far_was_ended_from_outside(tmp_path: Path) -> None:
    assert read_worker_exit(tmp_path / "never.json", was_memory_killed=False).kind == "killed_externally"


def test_half_a_note_still_means_that_the_worker_ended_itself(tmp_path: Path) -> None:
    (tmp_path / "1.json").write_text('{"kind": "ex')
    assert read_worker_exit(tmp_path / "1.json", was_memory_killed=False).kind == "crash"
