"""Deleting what searches have left behind, and nothing that is in use."""

import json
import multiprocessing
import os
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from nas.cli import main
from nas.common.errors import StudyError
from nas.run.cache_records import record_use, recorded_runs, records_folder
from nas.run.directory import CONFIG
from nas.run.leftovers import Leftover, delete, find_caches, find_runs
from nas.storage.backends.journal import LOCK
from nas.storage.lease import Holder, LockFile
from tests.run.conftest import FinishedRun

KEYS = [letter * 32 for letter in "abcdef"]


def add_features(cache: Path, key: str, *runs: Path) -> Path:
    """Add a folder of features to a cache, used by some runs."""
    folder = cache / "features" / key
    (folder / "train").mkdir(parents=True)
    (folder / "train" / "x.npy").write_bytes(b"x" * 1000)
    (folder / "features.json").write_bytes(b"{}")
    (cache / "features" / f"{key}.lock").touch()
    for run in runs:
        record_use(folder, run)
    return folder


def age(folder: Path, days: float) -> None:
    """Set all times of a folder back."""
    then = time.time() - days * 86400
    for root, _, names in os.walk(folder):
        for path in (root, *(os.path.join(root, name) for name in names)):
            os.utime(path, (then, then))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache with features of an existing run, a deleted one, both, an unknown one, and an unfinished build."""
    kept, gone = tmp_path / "kept", tmp_path / "gone"
    kept.mkdir()
    folder = tmp_path / "cache"
    add_features(folder, KEYS[0], kept)
    add_features(folder, KEYS[1], gone)
    add_features(folder, KEYS[2], gone, kept)
    add_features(folder, KEYS[3])
    (folder / "features" / f"{KEYS[4]}.building").mkdir()
    (folder / "features" / "photos").mkdir()
    return folder


@pytest.fixture
def runs(finished: FinishedRun, tmp_path: Path) -> Path:
    """A folder with a finished run, two stopped long ago, one of them alive, and one stopped now."""
    folder = tmp_path / "runs"
    for name in ("finished", "old", "alive", "recent"):
        shutil.copytree(finished.directory, folder / name)
        if name != "finished":
            (folder / name / "report.json").unlink()
    (folder / "alive" / LOCK).write_text(json.dumps(asdict(Holder.current())))
    for name in ("finished", "old", "alive"):
        age(folder / name, 40)
    return folder


def names(leftovers: list[Leftover]) -> list[tuple[str, str]]:
    return [(entry.kind, entry.path.name) for entry in leftovers]


def test_features_are_abandoned_when_all_their_runs_are_gone(cache: Path) -> None:
    found = find_caches(cache)
    unknown = [("unknown cache", KEYS[3]), ("unknown cache", f"{KEYS[4]}.building")]
    assert names(found) == [("cache", KEYS[1]), *unknown]
    assert found[0].size == 1002 and str(cache.parent / "gone") in found[0].reason
    assert find_caches(cache / "none") == []


def _record_twenty(features: Path, process: int) -> None:
    for number in range(20):
        record_use(features, Path(f"/runs/{process}-{number}"))


def test_several_runs_record_themselves_at_once_and_each_once(cache: Path) -> None:
    features = cache / "features" / KEYS[3]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_record_twenty, args=(features, number)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    _record_twenty(features, 0)
    assert {str(run) for run in recorded_runs(features) or ()} == {
        f"/runs/{p}-{n}" for p in range(3) for n in range(20)
    }


@pytest.mark.long
def test_search_records_its_cache(finished: FinishedRun) -> None:
    folders = [path for path in (finished.cache / "features").iterdir() if len(path.name) == len(KEYS[0])]
    assert any(finished.directory in (recorded_runs(path) or ()) for path in folders)


def test_deleted_features_leave_nothing_but_their_lock(cache: Path) -> None:
    (found, *_) = find_caches(cache)
    delete(found)
    assert sorted(path.name for path in (cache / "features").glob(f"{KEYS[1]}*")) == [f"{KEYS[1]}.lock"]
    assert (cache / "features" / KEYS[0]).is_dir()


def test_features_that_came_into_use_are_kept(cache: Path) -> None:
    (found, *_) = find_caches(cache)
    (cache.parent / "gone").mkdir()
    with pytest.raises(StudyError, match="a run uses it now"):
        delete(found)
    assert found.path.is_dir()


def test_features_that_are_being_built_are_kept(cache: Path) -> None:
    building = find_caches(cache)[-1]
    lock = FileLock(cache / "features" / f"{KEYS[4]}.lock")
    with lock, pytest.raises(StudyError, match="a process builds it now"):
        delete(building)
    assert building.path.is_dir()
    delete(building)
    assert not building.path.exists()


def test_interrupted_deletion_is_completed(cache: Path) -> None:
    folder = cache / "features" / KEYS[1]
    folder.rename(folder.with_name(f"{KEYS[1]}.deleting"))
    (found, *_) = find_caches(cache)
    assert (found.kind, found.path.suffix) == ("cache", ".deleting")
    delete(found)
    assert not found.path.exists() and not records_folder(folder).exists()


def test_damaged_record_makes_features_unknown(cache: Path) -> None:
    (record,) = records_folder(cache / "features" / KEYS[1]).iterdir()
    record.write_text("{")
    assert ("unknown cache", KEYS[1]) in names(find_caches(cache))


def test_stopped_runs_are_found_but_no_finished_or_running_one(runs: Path) -> None:
    assert names(find_runs(runs)) == [("run", "old"), ("run", "recent")]
    assert names(find_runs(runs / "old")) == [("run", "old")]
    assert find_runs(runs / "none") == []


def test_run_that_was_resumed_meanwhile_is_kept(runs: Path) -> None:
    (old, _) = find_runs(runs)
    lock = LockFile(old.path / LOCK)
    lock.write(Holder.current())
    try:
        with pytest.raises(StudyError, match="another driver is working on this run"):
            delete(old)
    finally:
        lock.close()
    (old.path / LOCK).write_text(json.dumps(asdict(Holder.current()) | {"host": "elsewhere"}))
    with pytest.raises(StudyError, match="is in use or finished now"):
        delete(old)
    assert (old.path / CONFIG).is_file()


class Terminal:
    """Standard input of a user who gives one answer."""

    def __init__(self, answer: str) -> None:
        self._answer = answer

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        return self._answer


def clean(runs: Path, cache: Path, *words: str) -> int:
    return main(["clean", str(runs), "--cache-dir", str(cache), *words])


def test_nothing_is_deleted_without_an_answer(
    runs: Path, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: SIM115 - no terminal
    assert clean(runs, cache) == 2
    shown = capsys.readouterr()
    assert "To delete: 2 folders" in shown.out and "--unknown deletes them): 2 folders" in shown.out
    assert "recent" not in shown.out, "it was stopped less than 30 days ago"
    assert shown.err == "error: nothing was deleted: there is no terminal to ask on; expected --yes or --dry-run\n"
    monkeypatch.setattr("sys.stdin", Terminal("\n"))
    assert clean(runs, cache) == 0
    assert clean(runs, cache, "--dry-run") == 0
    assert (runs / "old").is_dir() and (cache / "features" / KEYS[1]).is_dir()


def test_answer_yes_deletes_what_was_shown(
    runs: Path, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert clean(runs, cache) == 0
    shown = capsys.readouterr()
    assert "Deleted: 2 folders" in shown.out and shown.err.startswith("Delete 2 folders, ")
    assert sorted(path.name for path in runs.iterdir()) == ["alive", "finished", "recent"]
    left = {path.name for path in (cache / "features").iterdir() if path.is_dir() and ".runs" not in path.name}
    assert left == {KEYS[0], KEYS[2], KEYS[3], f"{KEYS[4]}.building", "photos"}


def test_script_deletes_by_age_and_reads_json(runs: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def found(*words: str) -> dict[str, Any]:
        assert clean(runs, cache, "--json", *words) == 0
        return {Path(entry["path"]).name: entry for entry in json.loads(capsys.readouterr().out)["leftovers"]}

    assert set(found("--dry-run", "--older-than", "1d")) == {"old"}
    entries = found("--yes", "--unknown", "--older-than", "0s")
    assert {name: entry["deleted"] for name, entry in entries.items()} == dict.fromkeys(
        ("old", "recent", KEYS[1], KEYS[3], f"{KEYS[4]}.building"), True
    )
    assert entries[KEYS[1]]["size"] == 1002 and entries["old"]["kind"] == "run"
    assert found("--yes", "--unknown", "--older-than", "0s") == {}
    assert (runs / "alive").is_dir() and (runs / "finished").is_dir() and (cache / "features" / KEYS[0]).is_dir()


def test_age_of_another_form_is_an_error(runs: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert clean(runs, cache, "--older-than", "a month") == 2
    assert capsys.readouterr().err.startswith(
        "error: --older-than a month: expected numbers with units from s, m, h, d"
    )
