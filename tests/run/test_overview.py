"""The list of runs, and the differences of two."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from nas.cli import main
from nas.common.errors import StudyError
from nas.run.overview import compare_runs, list_runs
from nas.storage.backends.journal import LOCK
from nas.storage.lease import Holder
from tests.run.conftest import FinishedRun


def states(folder: Path) -> dict[str, str]:
    """Return the state of every run of a folder."""
    rows = [line.split("  ") for line in list_runs(folder).splitlines()[2:]]
    return {Path(row[0].strip()).name: next(cell.strip() for cell in row[1:] if cell.strip()) for row in rows}


@pytest.fixture
def runs(finished: FinishedRun, tmp_path: Path) -> Path:
    """A folder with a finished run, a stopped one with another seed, a damaged one, and something else."""
    for name in ("finished", "stopped", "damaged"):
        shutil.copytree(finished.directory, tmp_path / "runs" / name)
    (tmp_path / "runs" / "stopped" / "report.json").unlink()
    path = tmp_path / "runs" / "stopped" / "config.yaml"
    values = yaml.safe_load(path.read_text())
    values["search"]["seed"] += 1
    path.write_text(yaml.safe_dump(values))
    (tmp_path / "runs" / "damaged" / "config.yaml").write_text("[")
    (tmp_path / "runs" / "other").mkdir()
    return tmp_path / "runs"


def test_runs_are_listed_with_their_state_and_best_score(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert states(runs) == {"finished": "finished", "stopped": "stopped", "damaged": "damaged"}
    assert list(states(runs / "finished")) == ["finished"]
    assert main(["list", str(runs / "finished")]) == 0
    shown = capsys.readouterr().out
    assert ", trained completely" in shown and "MiB" in shown


def test_run_is_running_while_the_process_of_its_lock_lives(runs: Path) -> None:
    holder = asdict(Holder.current())
    (runs / "stopped" / LOCK).write_text(json.dumps(holder))
    assert states(runs)["stopped"] == "running"
    (runs / "stopped" / LOCK).write_text(json.dumps(holder | {"process_start": 1}))
    assert states(runs)["stopped"] == "stopped"
    (runs / "stopped" / LOCK).write_text(json.dumps(holder | {"host": "elsewhere"}))
    assert states(runs)["stopped"] == "held by elsewhere"


def test_folder_without_runs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="has no runs; expected a folder with run directories"):
        list_runs(tmp_path)
    with pytest.raises(StudyError, match="cannot be read: no such file or directory"):
        list_runs(tmp_path / "none")


def test_difference_names_changed_keys_and_both_results(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", str(runs / "finished"), str(runs / "stopped")]) == 0
    changes, results = capsys.readouterr().out.split("\n\n")
    assert [line.split()[0] for line in changes.splitlines()[2:]] == ["seed"]
    rows = {line.split("  ")[0]: line.split()[-1] for line in results.splitlines()[2:]}
    assert rows["accuracy, test"] == "–" and "accuracy, validation" in rows
    assert compare_runs(runs / "finished", runs / "finished").startswith("the configurations are equal")
    assert main(["diff", str(runs / "finished"), str(runs / "other")]) == 2
    assert "other: holds no run" in capsys.readouterr().err
