"""The lease of a study, with simulated clocks and hosts; `test_study.py` uses real processes and storages."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nas.common.errors import StudyError
from nas.storage.lease import (
    BEAT_SECONDS,
    STALE_SECONDS,
    Holder,
    Lease,
    LeaseRecord,
    LockFile,
    has_process_ended,
    process_start,
)

ELSEWHERE = Holder("token", "ada", "far", "another boot", 17, 4, "2030-01-01T00:00:00+00:00", beat=3)


class Memory(LeaseRecord):
    """A record that several drivers may write, as in a database."""

    is_exclusive = False

    def __init__(self, holder: Holder | None = None) -> None:
        self.holder = holder
        self.fails = False

    def read(self) -> Holder | None:
        if self.fails:
            raise OSError("the server is down")
        return self.holder

    def write(self, holder: Holder | None) -> None:
        if self.fails:
            raise OSError("the server is down")
        self.holder = holder

    def has_ended(self, holder: Holder) -> bool | None:
        return has_process_ended(holder)

    def close_thread(self) -> None:
        pass


class Clock:
    """A clock that advances only while a driver waits."""

    def __init__(self, on_second: Callable[[], None] = lambda: None) -> None:
        self.now = 1000.0
        self._on_second = on_second

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self._on_second()


def lease(record: LeaseRecord, clock: Clock, notes: list[str] | None = None) -> Lease:
    note = (notes if notes is not None else []).append
    return Lease(record=record, study="the study", clock=clock, sleep=clock.sleep, note=note)


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_lease_names_its_holder_until_it_is_released() -> None:
    record = Memory()
    mine = lease(record, Clock())
    assert mine.take() is False
    assert record.holder is not None and record.holder.process == os.getpid()
    mine.check()
    mine.release()
    assert record.holder is None


def test_living_holder_on_this_host_refuses_a_second_driver() -> None:
    record, clock = Memory(), Clock()
    first = lease(record, clock)
    first.take()
    with pytest.raises(
        StudyError, match=rf"the study: another driver is working .*user .* on host .*, process {os.getpid()}"
    ):
        lease(record, clock).take()
    first.check()
    first.release()


def test_dead_holder_on_this_host_is_replaced_at_once() -> None:
    record, clock = Memory(replace(Holder.current(), process=ended_process())), Clock()
    mine = lease(record, clock)
    assert mine.take() is True
    assert clock.now < 1000 + 2
    mine.release()


def test_process_that_reuses_the_number_of_a_dead_holder_is_distinguished() -> None:
    here = Holder.current()
    assert has_process_ended(here) is False
    assert has_process_ended(replace(here, process_start=here.process_start - 1)) is True
    assert has_process_ended(ELSEWHERE) is None


def test_process_that_the_system_hides_is_judged_by_its_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(process: int, number: int) -> None:
        raise PermissionError

    hidden = replace(Holder.current(), process=ended_process())
    assert has_process_ended(hidden) is True
    monkeypatch.setattr("nas.storage.lease.os.kill", refused)
    assert has_process_ended(hidden) is None


def test_killed_process_counts_as_ended_before_it_is_waited_for() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert process_start(process.pid) is not None
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
    assert process_start(process.pid) is None
    process.communicate()


def test_holder_on_another_host_keeps_the_lease_while_its_beat_changes() -> None:
    record = Memory(ELSEWHERE)

    def beat_every_five_seconds() -> None:
        assert record.holder is not None
        if clock.now % BEAT_SECONDS == 0:
            record.holder = replace(record.holder, beat=record.holder.beat + 1)

    clock, notes = Clock(beat_every_five_seconds), list[str]()
    with pytest.raises(StudyError, match=r"user ada on host far, process 17, since 2030-01-01"):
        lease(record, clock, notes).take()
    assert clock.now <= 1000 + BEAT_SECONDS and record.holder is not None and record.holder.token == "token"
    assert len(notes) == 1 and "host far" in notes[0] and "60 s" in notes[0]


def test_holder_on_another_host_without_a_beat_for_a_minute_is_replaced() -> None:
    record, clock = Memory(ELSEWHERE), Clock()
    mine = lease(record, clock)
    assert mine.take() is True
    assert STALE_SECONDS <= clock.now - 1000 <= STALE_SECONDS + 2
    assert record.holder is not None and record.holder.host != "far"
    mine.release()


def test_lease_that_is_released_while_it_is_watched_is_taken_at_once() -> None:
    record = Memory(ELSEWHERE)
    clock = Clock(lambda: record.write(None) if record.holder == ELSEWHERE else None)
    mine = lease(record, clock)
    mine.take()
    assert clock.now < 1000 + 5
    mine.release()


@pytest.mark.parametrize("left", [None, ELSEWHERE])
def test_one_of_several_simultaneous_drivers_gets_the_lease(
    left: Holder | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.storage.lease.STALE_SECONDS", 0.0)  # all have watched it already
    record, count, taken, refused = Memory(left), 8, [], []
    barrier = threading.Barrier(count)

    def take() -> None:
        mine = Lease(record=record, study="the study")
        barrier.wait()
        try:
            mine.take()
            taken.append(mine)
        except StudyError:
            refused.append(mine)

    threads = [threading.Thread(target=take) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1 and len(refused) == count - 1
    taken[0].check()
    taken[0].release()
    assert record.holder is None


def test_holder_that_lost_its_lease_stops_and_keeps_the_new_record() -> None:
    record, clock = Memory(), Clock()
    mine = lease(record, clock)
    mine.take()
    record.holder = ELSEWHERE
    mine.renew()
    for _ in range(2):
        with pytest.raises(StudyError, match=r"its run was taken over by user ada on host far"):
            mine.check()
    mine.release()
    assert record.holder == ELSEWHERE


def test_holder_that_was_suspended_checks_its_record_before_it_writes() -> None:
    record, clock = Memory(), Clock()
    mine = lease(record, clock)
    mine.take()
    clock.now += STALE_SECONDS  # and its thread had no time to beat
    mine.check()
    clock.now += STALE_SECONDS
    record.holder = ELSEWHERE
    with pytest.raises(StudyError, match="taken over by user ada"):
        mine.check()
    mine.release()


def test_unreachable_record_stops_the_driver_before_another_may_take_over() -> None:
    record, clock = Memory(), Clock()
    mine = lease(record, clock)
    mine.take()
    record.fails = True
    clock.now += 40
    mine.check()  # a short failure has no effect
    clock.now += 10
    with pytest.raises(StudyError, match=r"could not be renewed for 45 s \(the server is down\)"):
        mine.check()
    record.fails = False
    mine.check()
    mine.release()


def test_thread_renews_the_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.storage.lease.BEAT_SECONDS", 0.01)
    record = Memory()
    mine = Lease(record=record, study="the study")
    mine.take()
    deadline = time.monotonic() + 10
    while (record.holder is None or record.holder.beat < 3) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert record.holder is not None and record.holder.beat >= 3
    mine.release()
    assert record.holder is None


def test_locked_file_refuses_other_drivers_and_names_the_holder(tmp_path: Path) -> None:
    record = LockFile(tmp_path / "driver.lock")
    mine = lease(record, Clock())
    mine.take()
    with pytest.raises(StudyError, match=rf"another driver is working .* \(user .*, process {os.getpid()}, since"):
        LockFile(tmp_path / "driver.lock")
    mine.release()
    record.close()
    LockFile(tmp_path / "driver.lock").close()


@pytest.mark.parametrize("content", [b"", b"4711\n", b'{"token": "a"', b"\x00" * 1024, b"[1, 2]"])
def test_lock_file_without_a_valid_record_is_free(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "driver.lock").write_bytes(content)
    record = LockFile(tmp_path / "driver.lock")
    assert record.read() is None
    mine = lease(record, Clock())
    assert mine.take() is False
    mine.release()
    record.close()


def test_lock_file_left_on_this_host_is_taken_at_once_and_one_of_another_host_is_watched(tmp_path: Path) -> None:
    record, clock = LockFile(tmp_path / "driver.lock"), Clock()
    record.write(replace(Holder.current(), boot="before the machine was restarted"))
    first = lease(record, clock)
    assert first.take() is True and clock.now < 1000 + 2
    first.release()
    record.write(ELSEWHERE)
    second = lease(record, clock)
    assert second.take() is True and clock.now >= 1000 + STALE_SECONDS
    second.release()
    record.close()


def test_system_releases_a_lock_file_when_its_holder_dies(tmp_path: Path) -> None:
    path = tmp_path / "driver.lock"
    code = "import time; from pathlib import Path; from nas.storage.lease import *\n"
    code += f"record = LockFile(Path({str(path)!r}))\n"
    code += "Lease(record=record, study='x').take(); print('held', flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with pytest.raises(StudyError, match=f"process {process.pid},"):
        LockFile(path)
    process.kill()
    process.communicate()
    record = LockFile(path)
    left = record.read()
    assert left is not None and left.process == process.pid and record.has_ended(left) is True
    record.close()
