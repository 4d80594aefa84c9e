"""The contract of all storage backends, including crashes of the driver; then the specifics of each."""

import errno
import json
import os
import queue
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import optuna
import optuna_dashboard  # type: ignore[import-untyped]
import pytest
import sqlalchemy
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import IntDistribution

from nas.common.errors import StudyError
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.search.space import Architecture
from nas.search.trial import STAGES, Job, Result, Stage
from nas.storage.backends.journal import JOURNAL
from nas.storage.contents import FORMAT_VERSION
from nas.storage.lease import Holder
from nas.storage.records import Rejection
from nas.storage.study import Study
from tests.storage.conftest import StoredRun, with_driver
from tests.support.factories import make_job, make_result
from tests.support.paths import REPOSITORY
from tests.support.postgresql import PASSWORD
from tests.support.study_writer import SPACE

FIRST, SECOND = PMFArchitecture(1, 1, 1, 1, 1), PMFArchitecture(1, 2, 1, 1, 1)
THIRD = PMFArchitecture(1, ((1, 2), (3, 1), (2, 2)), 1, 1, 1)


def result(trial: int, architecture: Architecture, stage: Stage = "one_shot", score: float = 0.5) -> Result:
    return make_result(
        trial=trial, architecture=architecture, stage=stage, score=score, metrics={"accuracy": score / 3}
    )


def job(trial: int, architecture: Architecture, stage: Stage = "one_shot") -> Job:
    return make_job(trial=trial, architecture=architecture, stage=stage, predicted_peak_bytes=100)


def everything(study: Study) -> dict[str, Any]:
    return {
        "results": [study.results(stage) for stage in STAGES],
        "counts": [study.count(stage) for stage in STAGES],
        "rejections": study.rejections,
        "running": study.running,
        "rounds": dict(study.rounds),
        "architectures": list(study.architectures()),
    }


class Driver:
    """A process that writes to a study, until it is killed; see tests/support/study_writer.py."""

    def __init__(self, run: StoredRun, count: int) -> None:
        arguments = [str(run.directory), run.name, run.url or "", str(count)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.study_writer", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )
        self.lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line.rstrip("\n"))

    def next(self) -> str:
        return self.lines.get(timeout=60)

    def kill(self) -> list[str]:
        """Kill it with `kill -9`; returns the lines that were not read yet."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
        return list(self.lines.queue)


@pytest.fixture
def drive(run: StoredRun) -> Iterator[Callable[[int], Driver]]:
    """Starts drivers of the study, which do not outlive the test."""
    drivers: list[Driver] = []

    def start(count: int) -> Driver:
        drivers.append(Driver(run, count))
        return drivers[-1]

    yield start
    for driver in drivers:
        driver.kill()


# All backends


def test_finished_results_are_there_when_the_study_is_opened_again(run: StoredRun) -> None:
    with run.open() as study:
        number = study.start(FIRST)
        study.finish(result(number, FIRST, score=1 / 3))
        study.finish(result(number, FIRST, "short", 0.1 + 0.2))
        study.finish(result(number, FIRST, "full", 0.7))
        expected = everything(study)
    with run.open() as again:
        assert everything(again) == expected
        assert again.results("one_shot") == [result(0, FIRST, score=1 / 3)]
        assert again.result("short", 0) == result(0, FIRST, "short", 0.1 + 0.2)
        assert again.result("full", 0) == result(0, FIRST, "full", 0.7)
        assert again.result("full", 1) is None and again.running == {} and again.requeued_count == 0


def test_results_and_rejections_are_ordered_by_number(run: StoredRun) -> None:
    with run.open() as study:
        for architecture in (FIRST, SECOND, THIRD):
            study.start(architecture)
        for trial, architecture in ((1, SECOND), (2, THIRD), (0, FIRST)):
            study.finish(result(trial, architecture))
            study.reject(job(trial, architecture, "short"), status="failed", reason="it broke")
        assert [entry.trial for entry in study.results("one_shot")] == [0, 1, 2]
        assert [entry.trial for entry in study.rejections] == [0, 1, 2]
        with pytest.raises(ValueError, match="trial 1 already has a result at stage one_shot"):
            study.finish(result(1, SECOND))
    with run.open() as again:
        assert [entry.trial for entry in again.results("one_shot")] == [0, 1, 2]
        assert [entry.trial for entry in again.rejections] == [0, 1, 2]


def test_candidates_left_running_are_requeued_under_their_numbers(run: StoredRun) -> None:
    with run.open() as study:
        study.start(FIRST, 3)
        study.start(SECOND, 4)
        study.finish(result(0, FIRST))
    with run.open() as again:
        assert again.running == {1: SECOND} and again.requeued_count == 1
        assert again.round_of(0) == 3 and again.round_of(1) == 4
        again.finish(result(1, SECOND))
        assert again.start(THIRD) == 2
        assert again.requeued_count == 1
    with run.open() as last:
        assert [entry.trial for entry in last.results("one_shot")] == [0, 1]
        assert last.running == {2: THIRD}


def test_infeasible_and_failed_candidates_stay_distinguishable(run: StoredRun) -> None:
    with run.open() as study:
        study.reject_infeasible(FIRST, "too large", 10**12)
        number = study.start(SECOND)
        study.reject(job(number, SECOND), status="failed", reason="it broke")
        number = study.start(THIRD)
        study.finish(result(number, THIRD))
        study.reject(job(number, THIRD, "full"), status="infeasible", reason="ran out", measured_peak_bytes=2**40)
        expected = everything(study)
        assert study.rejections == [
            Rejection(0, FIRST, "one_shot", "infeasible", "too large", 10**12, None),
            Rejection(1, SECOND, "one_shot", "failed", "it broke", 100, None),
            Rejection(2, THIRD, "full", "infeasible", "ran out", 100, 2**40),
        ]
    with run.open() as again:
        assert everything(again) == expected
        assert set(again.architectures()) == {FIRST, SECOND, THIRD}
        assert 0 not in again.rounds and {1, 2} == set(again.rounds)


def test_only_unfinished_candidates_of_a_killed_driver_are_requeued(
    run: StoredRun, drive: Callable[[int], Driver]
) -> None:
    with run.open() as study:
        study.start(FIRST)
    for _ in range(2):
        driver = drive(0)
        assert driver.next() == "open"
        driver.kill()
        with run.open() as study:
            assert study.running == {0: FIRST} and study.requeued_count == 1


def test_out_of_memory_marks_survive(run: StoredRun) -> None:
    with run.open() as study:
        study.start(FIRST)
        study.mark_out_of_memory(job(0, FIRST, "short"))
        assert study.was_out_of_memory(job(0, FIRST, "short"))
    with run.open() as again:
        assert again.was_out_of_memory(job(0, FIRST, "short"))
        assert not again.was_out_of_memory(job(0, FIRST)) and not again.was_out_of_memory(job(1, FIRST, "short"))


def test_optuna_reads_every_candidate_with_its_score_and_choices(run: StoredRun) -> None:
    with run.open() as study:
        study.finish(result(study.start(FIRST), FIRST, score=0.9))
        study.finish(replace(result(0, FIRST, "full", 0.4), seconds=100.0))
        study.reject_infeasible(SECOND, "too large", 7)
        study.start(THIRD)
        one_shot, full = (run.optuna_study(stage) for stage in ("one_shot", "full"))
    assert full.best_value == 0.4 and one_shot.best_value == 0.9
    states = [(trial.state.name, trial.params) for trial in one_shot.trials]
    values = [SPACE.encode(architecture) for architecture in (FIRST, SECOND, THIRD)]
    units = {"fusion_layer": "", "mapping_width": " (units)"}
    params = [{f"{name}{units.get(name, ' (tokens)')}": value for name, value in genes.items()} for genes in values]
    assert states == list(zip(["COMPLETE", "FAIL", "RUNNING"], params, strict=True))
    assert one_shot.trials[1].user_attrs["status"] == "infeasible"
    assert one_shot.trials[0].distributions["mapping_width (units)"] == IntDistribution(1, 3)
    assert one_shot.trials[0].user_attrs["accuracy"] == 0.9 / 3
    assert one_shot.trials[0].user_attrs["peak_memory (MiB)"] == 0.0
    duration = full.trials[0].duration
    assert duration is not None and duration.total_seconds() == pytest.approx(100, abs=0.1)


def test_runs_with_different_names_are_separate_in_one_database(run: StoredRun) -> None:
    if run.url is None:
        with run.open() as study:
            study.start(FIRST)
        with pytest.raises(StudyError, match=f"belongs to another run; expected 'other', got '{run.name}'"):
            run.open(name="other")
        return
    (run.directory / "other").mkdir()
    other_run = replace(run, directory=run.directory / "other", name=f"{run.name} too")
    with run.open() as study, other_run.open() as other:
        study.start(FIRST)
        assert other.start(SECOND) == 0
        assert study.running == {0: FIRST} and other.running == {0: SECOND}


def test_changed_configuration_is_refused_key_by_key_and_a_changed_budget_is_not(run: StoredRun) -> None:
    config = {"seed": 0, "space": {"query_prompts": (1, 2)}, "budget": {"trials": 4, "oversized": "reject"}}
    run.open(config=config).close()
    run.open(config=config | {"budget": {"trials": 9, "oversized": "reject"}}).close()
    changed = {
        "seed": 1,
        "space": {"query_prompts": (1, 2, 3)},
        "budget": {"trials": 4, "oversized": "accumulate"},
    }
    with pytest.raises(StudyError) as caught:
        run.open(config=changed)
    assert str(caught.value).splitlines()[1:] == [
        '  - budget.oversized: "reject" → "accumulate"',
        "  - seed: 0 → 1",
        "  - space.query_prompts: [1, 2] → [1, 2, 3]",
        "restore the old values in config.yaml or on the command line, or search in a new run directory (--run-dir)",
    ]
    with run.open(config=config) as study:  # a refusal releases the lease
        assert study.start(FIRST) == 0


def test_second_driver_in_one_process_is_refused(run: StoredRun) -> None:
    with run.open() as study:
        with pytest.raises(
            StudyError, match=rf"another driver is working on this run \(user .*, process {os.getpid()}, since"
        ):
            run.open()
        study.start(FIRST)
    run.open().close()


def test_second_driver_is_refused_until_the_first_is_killed_and_then_loses_nothing(
    run: StoredRun, drive: Callable[[int], Driver]
) -> None:
    """Kill the driver at random moments, twice; at most one write of each kind is stored without being acknowledged."""
    started: dict[int, int] = {}
    finished: dict[int, float] = {}
    rng = random.Random()
    for _ in range(2):
        driver = drive(10**6)
        lines = [driver.next() for _ in range(rng.randint(3, 30))]
        with pytest.raises(StudyError, match=rf"another driver is working on this run .*process {driver.process.pid},"):
            run.open()
        time.sleep(rng.random() / 20)
        lines += driver.kill()
        for line in lines[1:]:
            kind, trial, *score = line.split()
            if kind == "started":
                started[int(trial)] = 1
            else:
                finished[int(trial)] = float(score[0])
        begin = time.monotonic()
        with run.open() as study:
            assert time.monotonic() - begin < 10
            scores = {entry.trial: entry.score for entry in study.results("one_shot")}
            assert finished.items() <= scores.items() and len(scores) <= len(finished) + 2
            assert started.keys() <= scores.keys() | study.running.keys()
            assert study.requeued_count == len(study.running) <= 2
            for number, architecture in study.running.items():
                study.finish(result(number, architecture))
                finished[number] = 0.5
        finished |= scores


def test_one_of_two_simultaneous_successors_of_a_dead_driver_is_refused(
    run: StoredRun, drive: Callable[[int], Driver]
) -> None:
    first = drive(0)
    assert first.next() == "open"
    first.kill()
    followers = [drive(0), drive(0)]
    lines = [follower.next() for follower in followers]
    assert sorted(line.split(":")[0] for line in lines) == ["open", "refused"]
    assert "another driver is working on this run" in "".join(lines)


def test_driver_that_lost_its_study_to_another_writes_nothing_more(
    run: StoredRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    with run.open() as study:
        study.start(FIRST)
        run.overwrite_lease(Holder("token", "ada", "far", "boot", 17, 4, "2030-01-01T00:00:00+00:00"))
        monkeypatch.setattr("nas.storage.lease._DOUBT_SECONDS", -1.0)  # every check reads the record
        with pytest.raises(StudyError, match=r"taken over by user ada on host far, process 17"):
            study.check_lease()
        writers: list[Callable[[], object]] = [
            lambda: study.start(SECOND),
            lambda: study.finish(result(0, FIRST)),
            lambda: study.finish(result(0, FIRST, "full")),
            lambda: study.reject(job(0, FIRST), status="failed", reason=""),
            lambda: study.reject_infeasible(SECOND, "", 1),
            lambda: study.mark_out_of_memory(job(0, FIRST)),
        ]
        for write in writers:
            with pytest.raises(StudyError, match="taken over by user ada"):
                write()
    (trial,) = run.optuna_study("one_shot").trials
    assert trial.state.name == "RUNNING" and "result" not in trial.user_attrs


def test_deleted_study_ends_the_driver_with_one_message(run: StoredRun) -> None:
    with run.open() as study:
        study.start(FIRST)
        for stage in STAGES:
            storage = run.optuna_storage
            storage.delete_study(storage.get_study_id_from_name(f"{run.name}/{stage}"))
        with pytest.raises(StudyError, match="the study was deleted while the search was running"):
            study.start(SECOND)


def test_trial_of_another_program_is_named(run: StoredRun) -> None:
    run.open().close()
    run.optuna_study("one_shot").add_trial(optuna.trial.create_trial(value=1.0, params={}, distributions={}))
    with pytest.raises(StudyError, match=r"trial 0 of one_shot: was not written by this program: 'result' is missing"):
        run.open()


class _Silent(WSGIRequestHandler):
    def log_message(self, *arguments: object) -> None:
        del arguments


def test_study_can_be_shown_in_the_dashboard_while_it_is_open(run: StoredRun) -> None:
    with run.open() as study:
        study.finish(result(study.start(FIRST), FIRST, score=0.75))
        study.reject_infeasible(SECOND, "too large", 7)
        app = optuna_dashboard.wsgi(with_driver(run.url) if run.url else str(run.directory / JOURNAL))
        with make_server("127.0.0.1", 0, app, handler_class=_Silent) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                api = f"http://127.0.0.1:{server.server_port}/api/studies"

                def fetch(url: str) -> Any:
                    with urllib.request.urlopen(url, timeout=30) as answer:
                        return json.load(answer)

                ids = {entry["study_name"]: entry["study_id"] for entry in fetch(api)["study_summaries"]}
                assert {f"{run.name}/{stage}" for stage in STAGES} <= ids.keys()
                shown = fetch(f"{api}/{ids[f'{run.name}/one_shot']}?after=0")["trials"]
            finally:
                server.shutdown()
                thread.join()
        study.start(THIRD)
    assert [(trial["number"], trial["state"]) for trial in shown] == [(0, "Complete"), (1, "Fail")]
    assert shown[0]["values"] == [0.75]
    assert {"key": "status", "value": "infeasible"} in shown[1]["user_attrs"]
    with run.open() as again:
        assert again.running == {2: THIRD}


# The journal; tests/storage/test_journal_file.py tests its file


def test_candidate_costs_two_appends_at_its_first_stage_and_one_at_each_further_one(
    journal: StoredRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, fsync = [], os.fsync

    def counted(descriptor: int) -> None:
        synced.append(descriptor)
        fsync(descriptor)

    with journal.open() as study:
        monkeypatch.setattr("nas.storage.journal_file.os.fsync", counted)
        study.finish(result(study.start(FIRST), FIRST))
        assert len(synced) == 2
        study.finish(result(0, FIRST, "short"))
        study.reject(job(0, FIRST, "full"), status="failed", reason="it broke")
        assert len(synced) == 4
        study.reject(job(study.start(SECOND), SECOND), status="failed", reason="it broke")
        assert len(synced) == 6


def test_full_disk_is_reported_and_keeps_acknowledged_writes(
    journal: StoredRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def half(descriptor: int, content: bytes) -> int:
        if len(content) < 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, content[: len(content) // 2])

    with journal.open() as study:
        study.start(FIRST)
        with monkeypatch.context() as patch:
            patch.setattr("nas.storage.journal_file.os.write", half)
            for attempt in (lambda: study.finish(result(0, FIRST)), lambda: study.start(SECOND)):
                with pytest.raises(
                    OSError, match=rf"No space left on device: '{re.escape(str(journal.directory))}.*log'"
                ):
                    attempt()
        assert study.running == {0: FIRST} and study.results("one_shot") == []
        study.finish(result(0, FIRST))
        assert study.start(SECOND) == 1
        expected = everything(study)
    with journal.open() as again:
        assert everything(again) == expected


KINDS = ["start", "start", "finish", "reject", "infeasible", "short", "not trained", "reopen"]
STEPS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 3**5 - 1)), max_size=20)
ALL = list(SPACE)


@settings(deadline=None, max_examples=30)
@given(STEPS)
def test_any_sequence_of_writes_is_the_same_after_opening_again(steps: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        run = StoredRun(Path(directory), "run", None)
        study = run.open()
        for step, index in steps:
            running, scored = sorted(study.running.items()), study.results("one_shot")
            ended = {entry.trial for entry in study.results("short")}
            ended |= {entry.trial for entry in study.rejections if entry.stage == "short"}
            untrained = [entry for entry in scored if entry.trial not in ended]
            if step == "start":
                study.start(ALL[index], index)
            elif step == "infeasible":
                study.reject_infeasible(ALL[index], "too large", index)
            elif step == "finish" and running:
                study.finish(result(*running[index % len(running)], score=index / 7))
            elif step == "reject" and running:
                study.reject(job(*running[index % len(running)]), status="failed", reason="it broke")
            elif step == "short" and untrained:
                entry = untrained[index % len(untrained)]
                study.finish(result(entry.trial, entry.architecture, "short"))
            elif step == "not trained" and untrained:
                entry = untrained[index % len(untrained)]
                study.reject(job(entry.trial, entry.architecture, "short"), status="failed", reason=f"{index}")
            elif step == "reopen":
                study.close()
                study = run.open()
        expected = everything(study)
        study.close()
        with run.open() as again:
            assert everything(again) == expected


def test_partial_last_line_is_dropped_and_the_study_continues(journal: StoredRun) -> None:
    with journal.open() as study:
        study.finish(result(study.start(FIRST), FIRST))
    with (journal.directory / JOURNAL).open("ab") as file:
        file.write(b'{"op_code": 4, "wor')
    with journal.open() as again:
        assert again.results("one_shot") == [result(0, FIRST)]
        again.finish(result(again.start(SECOND), SECOND))
    with journal.open() as last:
        assert last.count("one_shot") == 2


@pytest.mark.parametrize(
    "line", ['{"op_code": 77}', '{"op_code": 4, "study_id": 0}', '{"no": "record"}', "[1]", "\0\0"]
)
def test_line_that_optuna_cannot_replay_is_named(journal: StoredRun, line: str) -> None:
    journal.open().close()
    path = journal.directory / JOURNAL
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, line + "\n"]))
    with pytest.raises(StudyError, match=rf"{re.escape(str(path))}: line {len(lines) + 1} is damaged"):
        journal.open()
    path.write_text("".join(lines))
    journal.open().close()


def test_run_directory_can_be_moved(journal: StoredRun, tmp_path: Path) -> None:
    (tmp_path / "before").mkdir()
    with replace(journal, directory=tmp_path / "before").open() as study:
        study.start(FIRST)
    (tmp_path / "before").rename(tmp_path / "after")
    with replace(journal, directory=tmp_path / "after").open() as study:
        assert study.running == {0: FIRST}


def test_study_of_another_format_is_one_clear_error(run: StoredRun, monkeypatch: pytest.MonkeyPatch) -> None:
    with run.open() as study:
        study.start(FIRST)
    monkeypatch.setattr("nas.storage.contents.FORMAT_VERSION", FORMAT_VERSION + 1)
    expected = f"expected format {FORMAT_VERSION + 1}, got {FORMAT_VERSION}; search in a new run directory"
    with pytest.raises(StudyError, match=expected):
        run.open()


def test_study_without_a_format_is_one_clear_error(run: StoredRun) -> None:
    storage = run.optuna_storage
    study = storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], f"{run.name}/one_shot")
    storage.set_study_user_attr(study, "config", {})
    with pytest.raises(StudyError, match=f"expected format {FORMAT_VERSION}, got none"):
        run.open()


def test_journal_with_stages_of_an_older_version_is_one_clear_error(journal: StoredRun) -> None:
    journal.optuna_storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "run/inherited")
    with pytest.raises(StudyError, match="expected the stages one_shot, short, full, got run/inherited"):
        journal.open()


# Databases


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "nosuch://host/name",
            r"--storage nosuch://host/name: unknown kind of database; expected one of sqlite, postgresql",
        ),
        ("study.db", r"--storage study.db: not the URL of a database; expected for example sqlite:///"),
        ("sqlite:///{study}.db", r"--storage sqlite:///\{study\}.db: not the URL of a database"),
        (
            "mysql://a:geheim@host/name",
            r"--storage mysql://a:\*\*\*@host/name: the driver .* is not installed .*MySQLdb",
        ),
        ("sqlite://", r"--storage sqlite://: stores nothing; expected a file"),
        (
            "sqlite:////no/such/folder/study.db",
            r"--storage sqlite:////no.*: cannot be used: unable to open database file",
        ),
        (
            "postgresql://a:geheim@127.0.0.1:1/name",
            r"--storage postgresql://a:\*\*\*@127.0.0.1:1/name: .*onnection refused",
        ),
        ("postgresql://127.0.0.1:1/name?password=geheim", r"--storage .*/name\?password=\*\*\*: .*onnection refused"),
        ("postgresql://a:ge@heim:geheim@[", r"--storage postgresql://a:\*\*\*@\[: not the URL of a database"),
    ],
)
def test_unusable_database_is_named_without_its_password(tmp_path: Path, url: str, expected: str) -> None:
    with pytest.raises(StudyError, match=expected) as caught:
        Study(tmp_path, SPACE, name="run", storage=url)
    assert "geheim" not in str(caught.value) and "\n" not in str(caught.value)


def test_file_that_is_not_a_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"something else" * 100)
    with pytest.raises(StudyError, match=r"study.db: cannot be used: file is not a database"):
        Study(tmp_path, SPACE, name="run", storage=f"sqlite:///{tmp_path / 'study.db'}")


def test_missing_database_is_created_and_named_when_it_fails_later(tmp_path: Path, quickly_settled: None) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    with Study(tmp_path, SPACE, name="run", storage=url) as study:
        study.mark_out_of_memory(job(0, FIRST))
        engine = sqlalchemy.create_engine(url)
        with closing(engine.raw_connection()) as connection:
            connection.cursor().execute("DROP TABLE trial_params")
        with pytest.raises(
            StudyError, match=rf"--storage {re.escape(url)}: cannot be used: no such table: trial_params"
        ):
            study.start(FIRST)
        engine.dispose()


@pytest.mark.postgresql
@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("/postgres", "/missing", 'database "missing" does not exist'),
        (PASSWORD, "wrong", "password authentication failed"),
    ],
)
def test_refusal_of_the_server_is_quoted(
    postgresql_url: str, tmp_path: Path, old: str, new: str, expected: str
) -> None:
    with pytest.raises(
        StudyError, match=rf"--storage postgresql://search:\*\*\*@.*: cannot be used: .*{expected}"
    ) as caught:
        Study(tmp_path, SPACE, name="run", storage=new.join(postgresql_url.rsplit(old, 1)))
    assert PASSWORD not in str(caught.value) and "wrong" not in str(caught.value)


@pytest.mark.postgresql
def test_connection_that_the_server_closed_is_opened_again(
    postgresql_url: str, tmp_path: Path, quickly_settled: None
) -> None:
    with Study(tmp_path, SPACE, name="idle", storage=postgresql_url) as study:
        study.start(FIRST)
        engine = sqlalchemy.create_engine(with_driver(postgresql_url))
        with engine.connect() as connection:
            end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            connection.execute(sqlalchemy.text(end + " AND datname = 'postgres'"))
        engine.dispose()
        study.finish(result(0, FIRST))
        assert study.start(SECOND) == 1
