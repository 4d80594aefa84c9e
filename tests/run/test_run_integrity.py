"""Run directories whose files were cut, edited, swapped, or cannot be written."""

import csv
import dataclasses
import errno
import fcntl
import io
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from nas.cli import main
from nas.common.errors import StudyError
from nas.common.sealed_json import CHECKSUM, write_sealed_json
from nas.run.executors import ExecutionOptions
from nas.run.finalize import read_report
from nas.run.html_report.summary import read_summary
from nas.run.recording import RESULTS
from nas.run.reruns import (
    RERUNS,
    RerunStore,
    read_simple_result,
    read_simple_results,
    write_simple_result,
)
from nas.run.roles import BILINEAR, DEFAULT, LINEAR
from nas.run.shared_weights import ENCODERS, TRAINED
from nas.run.time_budget import TimeAccount
from nas.storage.backends.journal import JOURNAL, LOCK
from nas.storage.write_log import WRITE_LOG
from tests.run.conftest import FinishedRun
from tests.support.paths import REPOSITORY
from tests.support.real_driver import finished_models
from tests.support.runs import counts_of, resume_search
from tests.support.weights import are_equal


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / RESULTS).open(newline="") as file:
        return list(csv.DictReader(file))


def keep_lines(path: Path, count: int) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:count]))


@pytest.mark.parametrize("line_count", [4, 12])
def test_cut_journal_is_noticed_and_nothing_known_is_thrown_away(
    copy: Path, options: ExecutionOptions, capsys: pytest.CaptureFixture[str], line_count: int
) -> None:
    counts, rows = counts_of(copy), rows_of(copy)
    keep_lines(copy / JOURNAL, line_count)
    assert main(["resume", str(copy), "--workers", "0"]) == 2
    output, error = capsys.readouterr()
    assert output.startswith("Reading the run in ") and output.count("\n") == 2  # before anything is prepared
    assert error.startswith(f"error: {copy / JOURNAL}: does not hold what this run has stored in it; expected the ")
    assert "--accept-changed" in error and error.count("\n") == 1
    assert rows_of(copy) == rows
    assert main(["export", str(copy), "--output", str(copy / "model")]) == 0
    assert f"warning: {copy / JOURNAL}: does not hold" in capsys.readouterr().err
    assert are_equal(copy / "model", copy / "best")
    output = resume_search(copy, dataclasses.replace(options, accepts_changes=True))
    assert finished_models(output) == [] and "missing record(s) restored from" in output
    assert counts_of(copy) == counts and rows_of(copy) == rows


def test_results_that_neither_the_study_nor_its_log_hold_are_kept_aside(copy: Path, options: ExecutionOptions) -> None:
    rows = rows_of(copy)
    weights = {path.name: path.read_bytes() for path in (copy / "full").glob("trial_*")}
    (copy / WRITE_LOG).unlink()
    lines = (copy / JOURNAL).read_bytes().splitlines(keepends=True)
    full = next(index for index, line in enumerate(lines) if b'"stage":"full"' in line)
    keep_lines(copy / JOURNAL, full)
    with pytest.raises(StudyError, match=r"writes\.log: is missing; .*--accept-changed"):
        resume_search(copy, options)
    assert rows_of(copy) == rows
    output = resume_search(copy, dataclasses.replace(options, accepts_changes=True))
    assert f"2 result(s) of {copy / RESULTS} are not in the study; they were kept as " in output
    assert "results-1.csv and full-1/" in output
    assert {path.name: path.read_bytes() for path in (copy / "full-1").iterdir()} == weights != {}
    (kept,) = copy.glob("results-*.csv")
    with kept.open(newline="") as file:
        assert list(csv.DictReader(file)) == rows


OTHER_SHAPES = [
    "[]",
    "{}",
    "null",
    '{"best": null}',
    '{"crc32": 0}',
    "NaN",
    "1" * 401,
    "[" * 10**5,
    "\0",
    '{"a": 1, "crc32": ' + "9" * 401 + "}",
    "\udcff",
]
FILES = {
    "report.json": "delete it; `resume` then evaluates the best model again",
    "default.json": "delete it to repeat its trainings",
    "linear.json": "delete it to repeat its trainings",
    "bilinear.json": "delete it to repeat its trainings",
    "reruns.json": "delete it to repeat its trainings",
    "time.json": "restore a copy of it, or delete it to count the time from zero",
    "summary.json": "delete it; `resume` writes it again",
}


def read_everything(run: Path) -> None:
    """Read every file of a run as `resume` and `export` do."""
    read_report(run)
    read_simple_results(run)
    RerunStore(run / RERUNS)
    TimeAccount(run / "time.json")
    read_summary(run)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("text", OTHER_SHAPES)
def test_file_of_another_shape_is_damaged(finished: FinishedRun, tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(StudyError) as caught:
        read_everything(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / name}: ") and FILES[name] in message
    assert "\n" not in message and len(message) < 500


def change_number(values: dict[str, Any]) -> bool:
    """Change the first score, time or metric in nested values; returns whether there is one."""
    for name, value in values.items():
        if isinstance(value, float):
            values[name] = 0.987
            return True
        if isinstance(value, dict) and change_number(value):
            return True
    return False


@pytest.mark.parametrize("name", ["report.json", "default.json", "linear.json", "bilinear.json", "time.json"])
def test_edited_number_is_noticed(copy: Path, options: ExecutionOptions, name: str) -> None:
    values = json.loads((copy / name).read_text())
    assert change_number(values)
    (copy / name).write_text(json.dumps(values))
    with pytest.raises(StudyError, match=rf"{name}: is damaged: its checksum does not match .*; {FILES[name][:10]}"):
        resume_search(copy, options)
    (copy / name).unlink()  # as the message says
    assert "Exported model" in resume_search(copy, options)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("report.json", lambda values: values["best"].update(test_samples=-1)),
        ("report.json", lambda values: values["best"].pop("result")),
        ("report.json", lambda values: values.update(worst={})),
        ("default.json", lambda values: values["architecture"].update(family="none")),
        ("default.json", lambda values: values.update(score="0.5")),
        ("default.json", lambda values: values.update(trial=-1)),
        ("default.json", lambda values: values.update(stage="whole")),
        ("default.json", lambda values: values.update(seed=2**70)),
        ("time.json", lambda values: values.update(spent_seconds=float("nan"))),
        ("time.json", lambda values: values["phases"].update(candidates=-5.0)),
        ("summary.json", lambda values: values["sizes"].update(image_layers=-1)),
    ],
)
def test_value_that_this_program_never_writes_is_refused_with_a_right_checksum(
    finished: FinishedRun, tmp_path: Path, name: str, change: Callable[[dict[str, Any]], object]
) -> None:
    values = json.loads((finished.directory / name).read_text())
    del values[CHECKSUM]
    change(values)
    write_sealed_json(tmp_path / name, values)
    with pytest.raises(StudyError, match=rf"{name}: is damaged: "):
        read_everything(tmp_path)


def test_lost_running_time_is_named(copy: Path, options: ExecutionOptions) -> None:
    (copy / "time.json").unlink()
    assert f"{copy / 'time.json'}: is missing; the time of earlier sessions is counted as zero" in resume_search(
        copy, options
    )


def test_layout_of_a_file_may_change(finished: FinishedRun, tmp_path: Path) -> None:
    for name in FILES:
        if (finished.directory / name).exists():
            values = json.loads((finished.directory / name).read_text())
            (tmp_path / name).write_text(json.dumps(values, sort_keys=True))
    read_everything(tmp_path)


def test_no_module_of_the_run_package_reads_json_on_its_own() -> None:
    modules = sorted((REPOSITORY / "nas" / "run").rglob("*.py"))
    models = {"exported_model.py", "model_card.py", "format_card.py"}  # the configuration of a model of transformers
    others = {"overview.py", "formats.py"}  # the lock of a study, and rows that the same call has written
    others |= {"history.py"}  # single lines, of which a kill may have cut the last
    assert {path.name for path in modules if "json.load" in path.read_text()} <= models | others


def test_trainings_of_another_search_are_refused(copy: Path, options: ExecutionOptions) -> None:
    result = read_simple_result(copy, DEFAULT)
    assert result is not None
    write_simple_result(copy, dataclasses.replace(result, seed=result.seed + 1))
    with pytest.raises(StudyError, match=r"default\.json: holds a training of another search; .* delete it to repeat"):
        resume_search(copy, options)
    write_simple_result(copy, result)
    linear = read_simple_result(copy, LINEAR)
    assert linear is not None
    write_simple_result(copy, dataclasses.replace(linear, seed=linear.seed + 1))
    with pytest.raises(StudyError, match=r"linear\.json: holds another training; .* delete it to solve the classifier"):
        resume_search(copy, options)
    write_simple_result(copy, linear)
    bilinear = read_simple_result(copy, BILINEAR)
    assert bilinear is not None
    write_simple_result(copy, dataclasses.replace(bilinear, seed=bilinear.seed + 1))
    with pytest.raises(StudyError, match=r"bilinear\.json: holds another training; .* delete it to solve the classifi"):
        resume_search(copy, options)


# Weights


def test_weights_of_another_candidate_are_noticed(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, *_ = sorted((copy / "full").glob("trial_*.safetensors"))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    trial = first.stem.removeprefix("trial_")
    assert main(["export", str(copy), "--output", str(copy / "model"), "--trial", trial]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {first}: cannot be loaded: they belong to another training: training is ")
    assert "restore the file from a copy" in error and not (copy / "model").exists()


def test_supernet_other_than_that_of_the_scores_is_noticed(copy: Path, options: ExecutionOptions) -> None:
    other = next((copy / "full").iterdir())
    (copy / "supernet.safetensors").write_bytes(other.read_bytes())
    with pytest.raises(StudyError, match=r"holds another supernet than the one that 8 scores were computed with"):
        resume_search(copy, options, trials=9)
    assert counts_of(copy)[0] == 8


@pytest.mark.parametrize("lost", ["architecture.yaml", TRAINED])
def test_damaged_model_of_a_run_is_exported_again(copy: Path, options: ExecutionOptions, lost: str) -> None:
    best, default = copy / "best", copy / "default"
    names = {path.name for path in best.iterdir()}
    before = [load((folder / name).read_bytes()) for folder in (best, default) for name in (ENCODERS, TRAINED)]
    content = bytearray((best / ENCODERS).read_bytes())
    content[-5] ^= 1
    (best / ENCODERS).write_bytes(content)
    (default / lost).unlink()
    output = resume_search(copy, options)
    assert f"{best}: is not the model that was exported ({ENCODERS} changed); exporting it again" in output
    assert f"{default}: is not the model that was exported ({lost} missing); exporting it again" in output
    assert "evaluating" not in output
    after = [load((folder / name).read_bytes()) for folder in (best, default) for name in (ENCODERS, TRAINED)]
    for weights, expected in zip(after, before, strict=True):
        torch.testing.assert_close(weights, expected, rtol=0, atol=0)
    assert all({path.name for path in folder.iterdir()} == names for folder in (best, default))
    assert (best / ENCODERS).samefile(default / ENCODERS)
    assert "exporting it again" not in resume_search(copy, options)


# Places that cannot be written, and files of others


@pytest.fixture
def read_only(copy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that cannot be written, also by a privileged user: every way of opening a file of it for writing fails."""
    open_file, open_descriptor = io.open, os.open

    def refuse(path: object) -> None:
        if isinstance(path, str | os.PathLike) and Path(os.fspath(path)).is_relative_to(copy):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    def opened(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if set(mode) & set("wax+"):
            refuse(file)
        return open_file(file, mode, *rest, **options)

    def opened_descriptor(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            refuse(path)
        return open_descriptor(path, flags, *rest, **options)

    monkeypatch.setattr("builtins.open", opened)
    monkeypatch.setattr("io.open", opened)
    monkeypatch.setattr("os.open", opened_descriptor)
    return copy


def snapshot(run: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(run.rglob("*")) if path.is_file()}


def test_run_on_a_read_only_disk_is_exported_while_another_process_works_on_it(
    read_only: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(read_only)
    descriptor = os.open(read_only / LOCK, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert main(["export", str(read_only), "--output", str(tmp_path / "model")]) == 0
    finally:
        os.close(descriptor)
    assert snapshot(read_only) == before and capsys.readouterr().err == ""
    assert main(["resume", str(read_only), "--workers", "0"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {read_only}/") and "Read-only file system" in error and error.count("\n") == 1


def test_files_of_a_run_can_be_read_by_others(finished: FinishedRun) -> None:
    mask = os.umask(0)
    os.umask(mask)
    files = [path for path in finished.directory.rglob("*") if path.is_file()]
    modes = {path.relative_to(finished.directory): stat.S_IMODE(path.stat().st_mode) for path in files}
    assert {path: mode for path, mode in modes.items() if mode != 0o666 & ~mask} == {}


def test_permission_denied_is_told_as_such(
    copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_file = io.open

    def opened(file: Any, *rest: Any, **options: Any) -> Any:
        if isinstance(file, str | os.PathLike) and os.fspath(file) == str(copy / WRITE_LOG):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        return open_file(file, *rest, **options)

    monkeypatch.setattr("io.open", opened)
    assert main(["export", str(copy), "--output", str(copy / "model")]) == 2
    assert f"error: {copy / WRITE_LOG}: cannot be read: permission denied" in capsys.readouterr().err
