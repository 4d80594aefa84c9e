"""Studies that lost or changed records: noticed with the log of all writes, restored from it, read through it."""

import json
import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from nas.common.errors import StudyError
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.search.trial import STAGES
from nas.storage.backends.base import StudyMissing
from nas.storage.backends.journal import JOURNAL, LOCK
from nas.storage.contents import StudyContents
from nas.storage.write_log import WRITE_LOG
from tests.storage.conftest import StoredRun
from tests.support.factories import make_job, make_result

FIRST, SECOND, THIRD = (PMFArchitecture(1, number, 1, 1, 1) for number in (1, 2, 3))
CONFIG = {"seed": 3}


def fill(run: StoredRun) -> None:
    """Store three candidates with each kind of ending, and one that has not ended."""
    with run.open(config=CONFIG) as study:
        study.set_supernet("17")
        study.start(FIRST)
        study.reject_infeasible(SECOND, "too large", 7)
        study.start(THIRD, 1)
        study.finish(make_result(trial=0, architecture=FIRST, metrics={"f1": float("nan")}))
        study.finish(make_result(trial=2, architecture=THIRD, score=0.25))
        study.mark_out_of_memory(make_job(trial=2, architecture=THIRD, stage="short"))
        job = make_job(trial=2, architecture=THIRD, stage="short")
        study.reject(job, status="infeasible", reason="ran out", measured_peak_bytes=3)
        study.finish(make_result(trial=0, architecture=FIRST, stage="short", score=0.6))
        study.finish(make_result(trial=0, architecture=FIRST, stage="full", score=0.61))
        study.start(SECOND, 1)


def content(study: StudyContents) -> str:
    """Return everything that a study holds."""
    return json.dumps(study.records(), sort_keys=True) + repr(sorted(study.running.items()))


@pytest.fixture
def filled(run: StoredRun) -> StoredRun:
    fill(run)
    return run


@pytest.fixture
def filled_journal(journal: StoredRun) -> StoredRun:
    fill(journal)
    return journal


def change_database(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


def change_score(score: str) -> str:
    """Return the statement that changes the score of the full training."""
    places = "'\"score\": 0.61'", f"'\"score\": {score}'"
    return f"UPDATE trial_user_attributes SET value_json = REPLACE(value_json, {', '.join(places)})"


def cut_lines(count: int) -> Callable[[StoredRun], None]:
    def cut(run: StoredRun) -> None:
        path = run.directory / JOURNAL
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-count]))

    return cut


def delete_journal(run: StoredRun) -> None:
    (run.directory / JOURNAL).unlink()


def empty_journal(run: StoredRun) -> None:
    (run.directory / JOURNAL).write_bytes(b"")


def damage_journal(run: StoredRun) -> None:
    path = run.directory / JOURNAL
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:9], b"\0" * 30 + b"\n", *lines[10:]]))


def forget_lines_after_damage(run: StoredRun) -> None:
    path = run.directory / JOURNAL
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:9]))


LOSSES = [cut_lines(1), cut_lines(3), cut_lines(9), empty_journal, delete_journal, forget_lines_after_damage]


@pytest.mark.parametrize("lose", LOSSES)
def test_journal_that_lost_its_end_is_refused_read_from_the_log_and_restored(
    filled_journal: StoredRun, lose: Callable[[StoredRun], None]
) -> None:
    warnings: list[str] = []
    expected = content(filled_journal.read(warnings))
    assert warnings == []
    lose(filled_journal)
    for _ in range(2):  # nothing is changed by the refusal
        with pytest.raises(StudyError) as caught:
            filled_journal.open(config=CONFIG, must_exist=True)
        assert "journal.log: " in str(caught.value) and "\n" not in str(caught.value)
        assert "missing" in str(caught.value) and "restore" in str(caught.value)
    assert content(filled_journal.read(warnings)) == expected
    assert len(warnings) == 1 and JOURNAL in warnings[0] and WRITE_LOG in warnings[0]
    notes: list[str] = []
    with filled_journal.open(config=CONFIG, must_exist=True, accepts_changes=True, note=notes.append) as study:
        assert content(study) == expected
    assert len(notes) == 1 and re.search(r"\d+ missing record\(s\) restored from .*writes\.log", notes[0])
    with filled_journal.open(config=CONFIG, must_exist=True) as again:
        assert content(again) == expected
        assert again.start(THIRD) == 4


def test_lost_records_are_counted_and_named(filled_journal: StoredRun) -> None:
    cut_lines(2)(filled_journal)
    expected = (
        r"journal\.log: does not hold what this run has stored in it; expected the \d+ records of .*writes\.log, got "
        r"\d+ of them: 2 missing \(result full 0, start 3\); restore the newest copy of it, or resume with "
        r"--accept-changed"
    )
    with pytest.raises(StudyError, match=expected):
        filled_journal.open(config=CONFIG, must_exist=True)


@pytest.mark.parametrize("run", ["journal", "sqlite"], indirect=True)  # only these are files that can be copied
def test_older_copy_of_a_study_is_noticed(run: StoredRun) -> None:
    with run.open(config=CONFIG) as study:
        study.finish(make_result(trial=study.start(FIRST), architecture=FIRST))
    file = run.directory / (JOURNAL if run.url is None else "study.db")
    older = file.read_bytes()
    with run.open(config=CONFIG, must_exist=True) as study:
        study.finish(make_result(trial=0, architecture=FIRST, stage="full"))
    file.write_bytes(older)
    with pytest.raises(StudyError, match=r"1 missing \(result full 0\)"):
        run.open(config=CONFIG, must_exist=True)


def test_damaged_journal_is_read_from_the_log(filled_journal: StoredRun) -> None:
    expected = content(filled_journal.read([]))
    damage_journal(filled_journal)
    with pytest.raises(StudyError, match=r"line 10 is damaged .* keep only the 9 lines .*--accept-changed"):
        filled_journal.open(config=CONFIG, must_exist=True)
    warnings: list[str] = []
    assert content(filled_journal.read(warnings)) == expected
    assert "line 10 is damaged" in warnings[0] and "records are taken from" in warnings[0]


def test_other_storage_that_was_named_is_not_replaced_by_the_log(filled_journal: StoredRun) -> None:
    url = f"sqlite:///{filled_journal.directory / 'no.db'}"
    with pytest.raises(StudyMissing, match="the stored study of this run is missing"):
        filled_journal.read([], storage=url, needs_storage=True)
    assert not (filled_journal.directory / "no.db").exists()


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("DELETE FROM trials WHERE trial_id = (SELECT MAX(trial_id) FROM trials)", r"1 missing \(start 3\)"),
        (change_score("0.99"), r"1 changed \(result full 0; score was 0\.61, is 0\.99\)"),
        (
            change_score('"x"'),
            r"trial 0 of full: was not written by this program: score: expected a number, got 'x'",
        ),
    ],
)
def test_database_that_lost_or_changed_rows_is_refused(sqlite_run: StoredRun, statement: str, expected: str) -> None:
    fill(sqlite_run)
    change_database(sqlite_run.directory / "study.db", statement)
    with pytest.raises(StudyError, match=expected):
        sqlite_run.open(config=CONFIG, must_exist=True)
    warnings: list[str] = []
    assert sqlite_run.read(warnings).results("full")[0].score == 0.61
    assert re.search(expected, warnings[0])


def test_changed_records_are_kept_on_request_and_noticed_once(sqlite_run: StoredRun) -> None:
    fill(sqlite_run)
    change_database(sqlite_run.directory / "study.db", change_score("0.99"))
    notes: list[str] = []
    with sqlite_run.open(must_exist=True, accepts_changes=True, note=notes.append) as study:
        assert study.results("full")[0].score == 0.99
    assert "1 changed record(s) kept as they are (result full 0)" in notes[0]
    with sqlite_run.open(must_exist=True) as again:
        assert again.results("full")[0].score == 0.99
    assert sqlite_run.read([]).results("full")[0].score == 0.99


def test_candidates_lost_from_the_middle_of_a_database_are_not_given_other_numbers(sqlite_run: StoredRun) -> None:
    fill(sqlite_run)
    change_database(sqlite_run.directory / "study.db", "DELETE FROM trials WHERE number = 1")
    with pytest.raises(StudyError, match="cannot be restored under their numbers"):
        sqlite_run.open(must_exist=True, accepts_changes=True)


def test_lost_database_is_written_again_elsewhere_on_request(sqlite_run: StoredRun) -> None:
    fill(sqlite_run)
    expected = content(sqlite_run.read([]))
    (sqlite_run.directory / "study.db").unlink()
    moved = replace(sqlite_run, url=f"sqlite:///{sqlite_run.directory / 'new.db'}")
    with pytest.raises(StudyMissing):
        moved.open(config=CONFIG, must_exist=True)
    assert not (sqlite_run.directory / "new.db").exists()
    with moved.open(config=CONFIG, must_exist=True, accepts_changes=True) as study:
        assert content(study) == expected


# The log


def test_log_follows_every_write_and_is_extended_by_what_a_kill_kept_from_it(filled: StoredRun) -> None:
    path = filled.directory / WRITE_LOG
    whole, expected = path.read_bytes(), content(filled.read([]))
    lines = whole.splitlines(keepends=True)
    for kept in (b"".join(lines[:-1]), b"".join(lines[:-1]) + lines[-1][:20], b"".join(lines[:1])):
        path.write_bytes(kept)
        warnings: list[str] = []
        assert content(filled.read(warnings)) == expected and warnings == []
        assert path.read_bytes() == kept
        with filled.open(config=CONFIG, must_exist=True) as study:
            assert content(study) == expected
        assert sorted(json.loads(line)["key"] for line in path.read_bytes().splitlines()[1:]) == sorted(
            json.loads(line)["key"] for line in lines[1:]
        )
    path.write_bytes(whole)
    filled.open(config=CONFIG, must_exist=True).close()
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda text: None, "is missing"),
        (lambda text: b"", "is empty"),
        (lambda text: text.replace(b"0.61", b"0.99"), "is damaged in line"),
        (lambda text: text.replace(b"\n", b"\n\n", 1), "is damaged in line 2"),
        (lambda text: b"[" * 10**5 + b"\n", "is damaged in line 1"),
        (lambda text: b"\xff\x00\n" + text, "is damaged in line 1"),
    ],
)
def test_lost_or_damaged_log_is_refused_and_written_again_on_request(
    filled_journal: StoredRun, change: Callable[[bytes], bytes | None], problem: str
) -> None:
    path = filled_journal.directory / WRITE_LOG
    expected, changed = content(filled_journal.read([])), change(path.read_bytes())
    path.unlink()
    if changed is not None:
        path.write_bytes(changed)
    with pytest.raises(StudyError, match=rf"writes\.log: {problem}.*--accept-changed"):
        filled_journal.open(config=CONFIG, must_exist=True)
    warnings: list[str] = []
    assert content(filled_journal.read(warnings)) == expected
    assert problem in warnings[0] and "would not be noticed" in warnings[0]
    filled_journal.open(config=CONFIG, must_exist=True, accepts_changes=True).close()
    with filled_journal.open(config=CONFIG, must_exist=True) as study:
        assert content(study) == expected


def test_supernet_that_was_replaced_before_a_kill_is_no_change(filled_journal: StoredRun) -> None:
    path = filled_journal.directory / WRITE_LOG
    before = path.read_bytes()
    with filled_journal.open(config=CONFIG, must_exist=True) as study:
        study.set_supernet("18")
    path.write_bytes(before)
    for _ in range(2):
        with filled_journal.open(config=CONFIG, must_exist=True) as study:
            assert study.supernet == "18"


def test_log_of_another_run_is_refused(filled_journal: StoredRun) -> None:
    with pytest.raises(StudyError, match=r"writes\.log: belongs to another run; expected 'other', got 'run'"):
        filled_journal.read([], name="other")


def test_full_disk_for_the_log_alone_loses_nothing(journal: StoredRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(descriptor: int, text: bytes) -> None:
        os.write(descriptor, text[:10])
        raise OSError(28, "No space left on device")

    with journal.open() as study:
        study.start(FIRST)
        with monkeypatch.context() as patch:
            patch.setattr("nas.storage.write_log.write_all", refused)
            study.finish(make_result(trial=0, architecture=FIRST))
        assert study.start(SECOND) == 1
        expected = content(study)
    journal.directory.joinpath(JOURNAL).write_bytes(b"")
    assert content(journal.read([])) == expected


# Reading


def test_reading_needs_no_lock_and_changes_no_file_while_a_driver_writes(filled: StoredRun) -> None:
    def files() -> dict[str, bytes]:
        names = ("journal.log", WRITE_LOG, LOCK)
        return {name: (filled.directory / name).read_bytes() for name in names if (filled.directory / name).exists()}

    with filled.open(config=CONFIG) as study:
        expected, before, warnings = content(study), files(), list[str]()
        assert content(filled.read(warnings, config=CONFIG)) == expected
        study.finish(make_result(trial=2, architecture=THIRD, stage="full"))
        assert filled.read(warnings).count("full") == 2 and warnings == []
    assert before.keys() == files().keys()
    (filled.directory / LOCK).unlink(missing_ok=True)
    assert filled.read(warnings).count("full") == 2
    assert not (filled.directory / LOCK).exists()


def test_journal_with_a_partial_line_is_read_as_it_is(filled_journal: StoredRun) -> None:
    path = filled_journal.directory / JOURNAL
    path.write_bytes(path.read_bytes() + b'{"op_code": 4, "wor')
    before = path.read_bytes()
    assert filled_journal.read([]).count("full") == 1
    assert path.read_bytes() == before


@pytest.mark.parametrize("url", ["sqlite:///{}/none.db", "sqlite:///{}/empty.db", "sqlite:///{}/no/folder.db"])
def test_missing_study_is_named_and_no_database_is_made(tmp_path: Path, url: str) -> None:
    (tmp_path / "empty.db").touch()
    run = StoredRun(tmp_path, "run", url.format(tmp_path))
    for open_it in (lambda: run.read([]), lambda: run.open(must_exist=True)):
        with pytest.raises(StudyMissing, match=r"the stored study of this run is missing; .* with --storage"):
            open_it()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.db"]
    assert (tmp_path / "empty.db").stat().st_size == 0


def test_database_under_any_name_is_read_where_it_was_moved(sqlite_run: StoredRun, tmp_path: Path) -> None:
    fill(sqlite_run)
    folder = tmp_path / "a b%20c#d?é"
    folder.mkdir()
    shutil.move(sqlite_run.directory / "study.db", folder / "x.db")
    path = sqlite_run.directory / "link.db"
    path.symlink_to(folder / "x.db")
    moved = replace(sqlite_run, url=f"sqlite:///{path}")
    assert moved.read([], config=CONFIG).count("full") == 1
    with moved.open(must_exist=True, config=CONFIG) as study:
        study.finish(make_result(trial=2, architecture=THIRD, stage="full"))
    assert moved.read([]).count("full") == 2 and [moved.read([]).count(stage) for stage in STAGES] == [2, 1, 2]
