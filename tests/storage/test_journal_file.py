"""The journal file: complete lines are kept, and damaged ones are reported."""

import errno
import json
import os
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection

from nas.common.errors import StudyError
from nas.storage.journal_file import Journal

LOGS: list[dict[str, Any]] = [{"op_code": 2, "study_id": 0, "user_attr": {f"key {i}": [i, "ä\r\n"]}} for i in range(5)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    journal = Journal(tmp_path / "journal.log")
    for log in LOGS:
        journal.append_logs([log])
    return tmp_path / "journal.log"


def logs_in(path: Path) -> list[dict[str, Any]]:
    """Return the records as Optuna reads them."""
    return [
        {key: value for key, value in log.items() if key != "crc32"}
        for log in JournalFileBackend(str(path)).read_logs(0)
    ]


@contextmanager
def disk_full_after(byte_count: int, path: Path) -> Iterator[None]:
    """Let the system write up to a limit, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + byte_count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_appended_records_are_read_once_and_in_order(path: Path) -> None:
    journal = Journal(path)
    read = list(journal.read_logs(0))
    assert [log["user_attr"] for log in read] == [log["user_attr"] for log in LOGS]
    assert list(journal.read_logs(5)) == [] and journal.read_count == 5
    journal.append_logs([LOGS[0], LOGS[1]])
    assert [log["user_attr"] for log in journal.read_logs(5)] == [log["user_attr"] for log in LOGS[:2]]
    assert logs_in(path) == [*LOGS, *LOGS[:2]]


def test_journal_written_by_optuna_is_read_and_continued(tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    JournalStorage(JournalFileBackend(str(path))).create_new_study([StudyDirection.MAXIMIZE], "first")
    storage = JournalStorage(Journal(path))
    storage.create_new_study([StudyDirection.MAXIMIZE], "second")
    names = [study.study_name for study in JournalStorage(JournalFileBackend(str(path))).get_all_studies()]
    assert names == ["first", "second"] == [study.study_name for study in storage.get_all_studies()]


def test_records_that_the_dashboard_appends_are_read_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    storage = JournalStorage(Journal(path))
    study = storage.create_new_study([StudyDirection.MAXIMIZE], "study")
    dashboard = JournalStorage(JournalFileBackend(str(path)))
    for number in range(3):
        storage.set_study_user_attr(study, f"mine {number}", number)
        dashboard.set_study_user_attr(study, f"theirs {number}", number)
    storage.set_study_user_attr(study, "last", True)
    expected = {f"{writer} {number}": number for writer in ("mine", "theirs") for number in range(3)} | {"last": True}
    assert storage.get_study_user_attrs(study) == expected
    assert JournalStorage(Journal(path)).get_study_user_attrs(study) == expected


def test_transaction_is_one_append_and_none_after_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, synced, fsync = Journal(path), [], os.fsync

    def counted(descriptor: int) -> None:
        synced.append(descriptor)
        fsync(descriptor)

    monkeypatch.setattr("nas.storage.journal_file.os.fsync", counted)
    with journal.transaction():
        journal.append_logs([LOGS[0]])
        journal.append_logs([LOGS[1]])
        assert len(logs_in(path)) == 5
    assert len(synced) == 1 and logs_in(path) == [*LOGS, *LOGS[:2]]
    with suppress(RuntimeError), journal.transaction():
        journal.append_logs([LOGS[2]])
        raise RuntimeError
    journal.append_logs([LOGS[3]])
    assert logs_in(path) == [*LOGS, *LOGS[:2], LOGS[3]]


@pytest.mark.parametrize("torn", [b'{"op_code": 4, "wor', b"{", b"\x00\x00", b"\xff\r\xfe"])
def test_torn_last_line_is_cut_off_and_nothing_before_it(path: Path, torn: bytes) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert len(list(Journal(path).read_logs(0))) == 5
    assert path.read_bytes() == whole


def test_lock_of_a_dead_writer_is_removed(path: Path) -> None:
    for name in ("journal.log.lock", "journal.log.lock4f1c.rename"):
        path.with_name(name).symlink_to(path)
    Journal(path).append_logs([LOGS[0]])
    assert logs_in(path) == [*LOGS, LOGS[0]]
    assert [entry.name for entry in path.parent.iterdir()] == ["journal.log"]


@pytest.mark.parametrize("byte_count", [0, 1, 40, 120])
def test_full_disk_is_reported_with_the_file_and_leaves_whole_lines(path: Path, byte_count: int) -> None:
    journal, whole = Journal(path), path.read_bytes()
    with disk_full_after(byte_count, path):
        with pytest.raises(OSError, match=re.escape(str(path))):
            journal.append_logs(LOGS)
        assert path.read_bytes() == whole
    assert [entry.name for entry in path.parent.iterdir()] == ["journal.log"]
    journal.append_logs([LOGS[4]])
    assert logs_in(path) == [*LOGS, LOGS[4]]
    assert len(list(Journal(path).read_logs(0))) == 6


def test_partial_line_is_cut_off_before_the_next_append_if_that_failed_at_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(descriptor: int, size: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    journal = Journal(path)
    with monkeypatch.context() as patch, disk_full_after(30, path):
        patch.setattr("nas.storage.journal_file.os.ftruncate", refused)
        with pytest.raises(OSError, match=re.escape(str(path))):
            journal.append_logs([LOGS[0]])
    assert not path.read_bytes().endswith(b"\n")
    journal.append_logs([LOGS[1]])
    assert logs_in(path) == [*LOGS, LOGS[1]]


def test_line_that_could_not_be_synced_is_not_stored(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    journal = Journal(path)
    with monkeypatch.context() as patch:
        patch.setattr("nas.storage.journal_file.os.fsync", refused)
        with pytest.raises(OSError, match=r"No space left on device: '.*journal.log'"):
            journal.append_logs([LOGS[0]])
    assert logs_in(path) == LOGS and list(journal.read_logs(0))[5:] == []


def test_append_to_a_deleted_directory_fails(path: Path) -> None:
    journal = Journal(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(str(path))):
        journal.append_logs([LOGS[0]])
    assert not path.exists()


def test_append_to_a_truncated_file_fails(path: Path) -> None:
    journal = Journal(path)
    os.truncate(path, 100)
    with pytest.raises(StudyError, match=rf"{re.escape(str(path))}: was truncated while the search was running"):
        journal.append_logs([LOGS[0]])


LINES = st.integers(1, 4)


def refused_line(path: Path) -> int:
    """Return the line that the error names when the journal is opened, which must not change the file."""
    before = path.read_bytes()
    with pytest.raises(StudyError) as caught:
        Journal(path)
    assert path.read_bytes() == before
    found = re.search(
        rf"^{re.escape(str(path))}: line (\d+) is damaged \(.*\); .* keep only the (\d+) lines", str(caught.value)
    )
    assert found is not None and int(found[1]) == int(found[2]) + 1
    return int(found[1])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(number=LINES, data=st.data())
def test_changed_byte_is_reported_with_its_line(path: Path, number: int, data: st.DataObject) -> None:
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    position = data.draw(st.integers(0, len(lines[number - 1]) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != lines[number - 1][position]))
    start = sum(map(len, lines[: number - 1])) + position
    try:
        path.write_bytes(whole[:start] + bytes([byte]) + whole[start + 1 :])
        # A line whose own checksum became unreadable is found by the next one's.
        assert refused_line(path) in {number, number + 1}
    finally:
        path.write_bytes(whole)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(number=LINES, data=st.data())
def test_missing_inserted_and_truncated_lines_are_reported(path: Path, number: int, data: st.DataObject) -> None:
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    line = lines[number - 1]
    replacement = data.draw(
        st.sampled_from([b"", b"\n", line[: len(line) // 2] + b"\n", line[: len(line) // 2], line + line])
        | st.binary(max_size=50).map(lambda garbage: garbage + b"\n")
    )
    try:
        path.write_bytes(b"".join([*lines[: number - 1], replacement, *lines[number:]]))
        assert refused_line(path) in {number, number + 1}
    finally:
        path.write_bytes(whole)


def test_lines_before_a_damaged_one_can_be_continued(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = b"\x80\x81" + json.dumps(LOGS[2]).encode() + b"\n"
    path.write_bytes(b"".join(lines))
    assert refused_line(path) == 3
    path.write_bytes(b"".join(lines[:2]))
    Journal(path).append_logs([LOGS[4]])
    assert logs_in(path) == [*LOGS[:2], LOGS[4]]
