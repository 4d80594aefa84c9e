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
    LockFile,
    Place,
    is_process_gone,
    process_start,
)

ELSEWHERE = Holder("token", "ada", "far", "another boot", 17, 4, "2030-01-01T00:00:00+00:00", beat=3)


class Memory(Place):
    """A record that many may write, as in a database."""

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

    def is_gone(self, holder: Holder) -> bool | None:
        return is_process_gone(holder)

    def leave_thread(self) -> None:
        pass


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self, on_second: Callable[[], None] = lambda: None) -> None:
        self.now = 1000.0
        self._on_second = on_second

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self._on_second()


def lease(place: Place, clock: Clock, said: list[str] | None = None) -> Lease:
    note = (said if said is not None else []).append
    return Lease(place=place, study="the study", clock=clock, sleep=clock.sleep, note=note)


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_lease_names_its_holder_until_it_is_given_back() -> None:
    place = Memory()
    mine = lease(place, Clock())
    assert mine.take() is False
    assert place.holder is not None and place.holder.process == os.getpid()
    mine.check()
    mine.release()
    assert place.holder is None


def test_a_holder_that_lives_on_this_host_is_respected_and_named() -> None:
    place, clock = Memory(), Clock()
    first = lease(place, clock)
    first.take()
    with pytest.raises(
        StudyError, match=rf"the study: another driver works .*user .* on host .*, process {os.getpid()}"
    ):
        lease(place, clock).take()
    first.check()
    first.release()


def test_a_holder_that_died_on_this_host_is_followed_at_once() -> None:
    place, clock = Memory(replace(Holder.here(), process=ended_process())), Clock()
    mine = lease(place, clock)
    assert mine.take() is True
    assert clock.now < 1000 + 2
    mine.release()


def test_a_process_that_was_given_the_number_of_a_dead_holder_is_not_taken_for_it() -> None:
    here = Holder.here()
    assert is_process_gone(here) is False
    assert is_process_gone(replace(here, process_start=here.process_start - 1)) is True
    assert is_process_gone(ELSEWHERE) is None


def test_a_process_that_the_system_hides_is_judged_by_its_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(process: int, number: int) -> None:
        raise PermissionError

    hidden = replace(Holder.here(), process=ended_process())
    assert is_process_gone(hidden) is True
    monkeypatch.setattr("nas.storage.lease.os.kill", refused)
    assert is_process_gone(hidden) is None


def test_a_process_that_was_killed_and_not_yet_waited_for_has_ended() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert process_start(process.pid) is not None
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
    assert process_start(process.pid) is None
    process.communicate()


def test_a_holder_elsewhere_is_respected_while_its_heart_beats_whatever_its_clock_says() -> None:
    place = Memory(ELSEWHERE)

    def beat_every_five_seconds() -> None:
        assert place.holder is not None
        if clock.now % BEAT_SECONDS == 0:
            place.holder = replace(place.holder, beat=place.holder.beat + 1)

    clock, said = Clock(beat_every_five_seconds), []
    with pytest.raises(StudyError, match=r"user ada on host far, process 17, since 2030-01-01"):
        lease(place, clock, said).take()
    assert clock.now <= 1000 + BEAT_SECONDS and place.holder is not None and place.holder.token == "token"
    assert len(said) == 1 and "host far" in said[0] and "60 s" in said[0]


def test_a_holder_elsewhere_that_shows_no_life_for_a_minute_is_followed() -> None:
    place, clock = Memory(ELSEWHERE), Clock()
    mine = lease(place, clock)
    assert mine.take() is True
    assert STALE_SECONDS <= clock.now - 1000 <= STALE_SECONDS + 2
    assert place.holder is not None and place.holder.host != "far"
    mine.release()


def test_a_holder_elsewhere_that_gives_back_while_it_is_watched_is_followed_at_once() -> None:
    place = Memory(ELSEWHERE)
    clock = Clock(lambda: place.write(None) if place.holder == ELSEWHERE else None)
    mine = lease(place, clock)
    mine.take()
    assert clock.now < 1000 + 5
    mine.release()


@pytest.mark.parametrize("left", [None, ELSEWHERE])
def test_of_many_that_take_a_lease_at_the_same_moment_one_gets_it(
    left: Holder | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.storage.lease.STALE_SECONDS", 0.0)  # all have watched it already
    place, count, taken, refused = Memory(left), 8, [], []
    barrier = threading.Barrier(count)

    def take() -> None:
        mine = Lease(place=place, study="the study")
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
    assert place.holder is None


def test_one_whose_lease_was_taken_over_learns_it_and_leaves_the_new_record_alone() -> None:
    place, clock = Memory(), Clock()
    mine = lease(place, clock)
    mine.take()
    place.holder = ELSEWHERE
    mine.renew()
    for _ in range(2):
        with pytest.raises(StudyError, match=r"taken for dead, and its run was taken over by user ada on host far"):
            mine.check()
    mine.release()
    assert place.holder == ELSEWHERE


def test_one_that_was_suspended_asks_before_it_writes() -> None:
    place, clock = Memory(), Clock()
    mine = lease(place, clock)
    mine.take()
    clock.now += STALE_SECONDS  # and its thread had no time to beat
    mine.check()
    clock.now += STALE_SECONDS
    place.holder = ELSEWHERE
    with pytest.raises(StudyError, match="taken over by user ada"):
        mine.check()
    mine.release()


def test_a_record_that_cannot_be_reached_stops_the_driver_before_another_may_take_over() -> None:
    place, clock = Memory(), Clock()
    mine = lease(place, clock)
    mine.take()
    place.fails = True
    clock.now += 40
    mine.check()  # a short failure is nobody's loss
    clock.now += 10
    with pytest.raises(StudyError, match=r"could not be renewed for 45 s \(the server is down\)"):
        mine.check()
    place.fails = False
    mine.check()
    mine.release()


def test_the_heart_beats_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.storage.lease.BEAT_SECONDS", 0.01)
    place = Memory()
    mine = Lease(place=place, study="the study")
    mine.take()
    deadline = time.monotonic() + 10
    while (place.holder is None or place.holder.beat < 3) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert place.holder is not None and place.holder.beat >= 3
    mine.release()
    assert place.holder is None


def test_a_locked_file_refuses_all_others_and_names_the_holder(tmp_path: Path) -> None:
    place = LockFile(tmp_path / "driver.lock")
    mine = lease(place, Clock())
    mine.take()
    with pytest.raises(StudyError, match=rf"another driver works on this run \(user .*, process {os.getpid()}, since"):
        LockFile(tmp_path / "driver.lock")
    mine.release()
    place.close()
    LockFile(tmp_path / "driver.lock").close()


@pytest.mark.parametrize("content", [b"", b"4711\n", b'{"token": "a"', b"\x00" * 1024, b"[1, 2]"])
def test_a_lock_file_that_holds_no_record_is_nobodys(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "driver.lock").write_bytes(content)
    place = LockFile(tmp_path / "driver.lock")
    assert place.read() is None
    mine = lease(place, Clock())
    assert mine.take() is False
    mine.release()
    place.close()


def test_a_file_left_on_this_host_is_taken_at_once_and_one_left_elsewhere_is_watched(tmp_path: Path) -> None:
    place, clock = LockFile(tmp_path / "driver.lock"), Clock()
    place.write(replace(Holder.here(), boot="before the machine was restarted"))
    first = lease(place, clock)
    assert first.take() is True and clock.now < 1000 + 2
    first.release()
    place.write(ELSEWHERE)
    second = lease(place, clock)
    assert second.take() is True and clock.now >= 1000 + STALE_SECONDS
    second.release()
    place.close()


def test_the_system_lets_a_lock_file_go_when_its_holder_dies(tmp_path: Path) -> None:
    path = tmp_path / "driver.lock"
    code = "import time; from pathlib import Path; from nas.storage.lease import *\n"
    code += f"place = LockFile(Path({str(path)!r}))\n"
    code += "Lease(place=place, study='x').take(); print('held', flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with pytest.raises(StudyError, match=f"process {process.pid},"):
        LockFile(path)
    process.kill()
    process.communicate()
    place = LockFile(path)
    left = place.read()
    assert left is not None and left.process == process.pid and place.is_gone(left) is True
    place.close()
