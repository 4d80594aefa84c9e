"""MLflow and Weights & Biases, each read back through its own library, without a network."""

import importlib
import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nas.common.errors import StudyError
from nas.run.callbacks import EndEvent, StageEvent, TrialEvent
from nas.run.executors import ExecutionOptions
from nas.run.history import HISTORY, HistoryPoint, read_history
from nas.run.loggers.base import Logger
from nas.run.loggers.steps import LoggedSteps, training_name
from tests.support.factories import make_result
from tests.support.runs import resume_search


def point(step: int, value: float, *, stage: str = "full", split: str = "train", name: str = "loss") -> HistoryPoint:
    values = {
        "time": 1e9 + step,
        "trial": "3",
        "stage": stage,
        "seed": 7,
        "step": step,
        "steps": 30,
        "epoch": step / 10,
    }
    return HistoryPoint(**values, split=split, name=name, value=value)  # type: ignore[arg-type]


def test_steps_are_passed_on_once_also_after_a_restart_of_the_training_or_the_program() -> None:
    steps = LoggedSteps()
    first = [point(10, 2.0), point(20, 1.0), point(20, 1.5, split="validation")]
    assert [entry for _, _, entry in steps.new(first)] == first
    again = [point(10, 2.1), point(20, 1.1), point(30, 0.5)]
    assert list(steps.new(again)) == [("full/3", "train/loss", again[2])]
    later = LoggedSteps()
    later.skip_to("full/3", "train/loss", 20)
    assert [entry.step for _, _, entry in later.new([point(10, 2.0), point(20, 1.0), point(30, 0.5)])] == [30]


def test_trainings_have_the_names_of_their_stage_candidate_and_further_seed() -> None:
    assert training_name(point(1, 1.0)) == "full/3"
    assert training_name(point(1, 1.0, stage="rerun")) == "rerun/3/seed_7"
    assert training_name(point(1, 1.0, stage="supernet")) == "supernet"
    assert not list(LoggedSteps().new([point(1, 1.0, stage="one_shot")])), "a score is no curve"


def session(logger: Logger, directory: Path, *points: HistoryPoint) -> None:
    """Send what a session sends to a logger, and close it."""
    logger.on_stage(StageEvent(directory, "finalists", 1.0))
    logger.on_points(points)
    logger.on_trial(TrialEvent.of_result(directory, make_result(trial=3, stage="full", score=0.5)))
    logger.on_end(EndEvent(directory, "finished", 2.0))
    logger.close()


@pytest.mark.long
def test_mlflow_has_one_run_for_the_search_and_one_for_each_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient  # noqa: PLC0415  # the library is installed for long tests only

    from nas.run.loggers.mlflow import DATABASE, RUNS_FILE, MLflowLogger  # noqa: PLC0415

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    session(MLflowLogger(tmp_path), tmp_path, point(10, 9.0), point(20, 8.0))
    session(MLflowLogger(tmp_path), tmp_path, point(20, 8.1), point(30, 7.0))  # resumed at step 10
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / DATABASE}")
    runs: dict[str, Any] = json.loads((tmp_path / RUNS_FILE).read_text())["runs"]
    assert runs.keys() == {"search", "full/3"}
    curve = client.get_metric_history(runs["full/3"], "train/loss")
    assert sorted((entry.step, entry.value) for entry in curve) == [(10, 9.0), (20, 8.0), (30, 7.0)]
    search, training = (client.get_run(runs[name]) for name in ("search", "full/3"))
    assert search.data.metrics["full/accuracy"] == 0.5 and search.info.status == "FINISHED"
    assert training.data.tags["mlflow.parentRunId"] == runs["search"]
    assert training.data.params["mapping_width"] and training.info.run_name == "full/3"
    (tmp_path / RUNS_FILE).write_text('{"runs": 1}')
    with pytest.raises(StudyError, match=r"mlflow\.json: is damaged"):
        MLflowLogger(tmp_path)


@pytest.mark.long
def test_wandb_continues_one_run_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nas.run.loggers.wandb import RUN_FILE, WandbLogger  # noqa: PLC0415  # the library is installed for long tests only

    monkeypatch.setenv("WANDB_MODE", "offline")
    session(WandbLogger(tmp_path), tmp_path, point(10, 9.0), point(20, 8.0))
    first = json.loads((tmp_path / RUN_FILE).read_text())
    session(WandbLogger(tmp_path), tmp_path, point(20, 8.1), point(30, 7.0))
    second = json.loads((tmp_path / RUN_FILE).read_text())
    assert first["id"] == second["id"] and second["steps"] == {"full/3:train/loss": 30}
    assert _logged_by_wandb(tmp_path, "full/3/train/loss") == [9.0, 8.0, 7.0]
    (tmp_path / RUN_FILE).write_text("{}")
    with pytest.raises(StudyError, match=r"wandb\.json: is damaged"):
        WandbLogger(tmp_path)


def _logged_by_wandb(directory: Path, key: str) -> list[float]:
    """Return the values that the files of offline runs have, in the order of the sessions."""
    messages: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")

    values = []
    for path in sorted((directory / "wandb").glob("offline-run-*/*.wandb")):
        for content in _records(path.read_bytes()):
            record = messages.Record()
            record.ParseFromString(content)
            for item in record.history.item:
                if key in ("/".join(item.nested_key), item.key):
                    values.append(json.loads(item.value_json))
    return values


def _records(content: bytes) -> Iterator[bytes]:
    """Yield the records of a file in the format of LevelDB's log, in blocks of 32 KiB after a header of 7 bytes."""
    place, parts = 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:  # a block ends with padding where the header of a part does not fit
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield parts
            parts = b""


@pytest.mark.long
def test_search_logs_to_both_and_goes_on_without_naming_them(
    copy: Path, options: ExecutionOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (copy / "default.json").unlink(missing_ok=True)
    resume_search(copy, replace(options, log_to=("mlflow", "wandb")))
    assert (copy / "mlflow.db").exists() and list((copy / "wandb").glob("offline-run-*"))
    assert read_history(copy / HISTORY)
    resume_search(copy, options)
    assert json.loads((copy / "loggers.json").read_text())["loggers"] == ["mlflow", "wandb"]


@pytest.mark.long
def test_machine_that_is_not_logged_in_to_wandb_is_asked_nothing(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\nfrom nas.run.loggers.wandb import WandbLogger\n"
        f"WandbLogger(Path({str(tmp_path)!r})).close()"
    )
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "wandb").glob("offline-run-*"))
