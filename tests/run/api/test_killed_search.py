"""A search on data in memory, killed and resumed without the program that started it."""

import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import nas
from nas.cli import main
from nas.common.progress import LineReporter
from nas.run import recording
from nas.run.executors import ExecutionOptions
from nas.search.trial import Result
from tests.support.project import Project
from tests.support.runs import Killed


@pytest.mark.slow
def test_search_on_a_data_frame_is_killed_moved_and_resumed_by_the_command_line(
    project: Project, options: ExecutionOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pd.read_csv(project.manifest)
    generator = np.random.default_rng(0)
    colours = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 210)}
    rows["image"] = [
        np.full((20, 20, 3), colours[label], dtype=np.uint8) + generator.integers(0, 9, 3, dtype=np.uint8)
        for label in rows["label"]
    ]
    values = project.values(**{"search.finalists": 1, "supernet.steps": 4, "recipe.epochs": 1})
    del values["data"]
    values["encoders"] = {"image": str(project.root / "vit"), "text": str(project.root / "bert")}
    common: dict[str, Any] = {"workers": 0, "cache_dir": options.cache, "run_dir": tmp_path / "run", "budget": 2}
    take = recording.ResultRecorder.take

    def kill(self: recording.ResultRecorder, result: Result) -> None:
        take(self, result)
        raise Killed

    output = io.StringIO()
    monkeypatch.setattr(recording.ResultRecorder, "take", kill)
    with pytest.raises(Killed):
        nas.run_search(values, data=rows, progress=LineReporter(output), **common)
    assert "The data frame (60 rows and 58 pictures, " in output.getvalue()
    monkeypatch.undo()
    stopped = nas.open_run(tmp_path / "run")
    assert stopped.state == "stopped" and stopped.report == {}
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    words = ["resume", str(moved), "--workers", "0", "--cache-dir", str(options.cache)]
    with redirect_stdout(io.StringIO()):
        assert main(words) == 0
    run = nas.open_run(moved)
    assert run.state == "finished" and sorted(set(run.trials["trial"])) == [0, 1]
    assert run.load(device="cpu").evaluate(rows[rows["split"] == "test"]).metrics["accuracy"] > 0.5
    again = nas.run_search(values, data=rows, progress=False, **{**common, "run_dir": moved})
    assert len(again.trials) == len(run.trials)
    with pytest.raises(nas.NasError, match=r"holds a search on other data"):
        nas.run_search(values, data=rows.iloc[1:], progress=False, **{**common, "run_dir": moved})
