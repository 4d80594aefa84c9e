"""A finished run as an object: what it returns is what its files hold."""

import csv
import json
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from safetensors import safe_open

import nas
from nas.common.errors import ArgumentError, StudyError
from nas.run.api.display import run_as_html
from nas.run.api.trials import read_studies
from nas.run.ensemble import read_choice
from nas.search.keys import CandidateKey, DefaultKey, RerunKey
from tests.run.conftest import FinishedRun
from tests.support.project import Project


@pytest.fixture(scope="module")
def run(finished: FinishedRun) -> nas.Run:
    return nas.open_run(str(finished.directory))


def test_trials_are_the_rows_of_the_results_file(run: nas.Run, finished: FinishedRun) -> None:
    with (finished.directory / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    trials = run.trials
    assert len(trials) == len(rows) > 10
    for name in ("trial", "stage", "status", "round", "fusion_layer", "query_prompts", "image_readout", "seed"):
        assert [str(cell) for cell in trials[name]] == [row[name] for row in rows], name
    for name in ("score", "accuracy", "cross_entropy"):
        assert list(trials[name]) == pytest.approx([float(row[name]) for row in rows], abs=1e-12), name
    assert [str(cell) for cell in trials["trainable_parameters"]] == [row["trainable_parameters"] for row in rows]
    full = trials[trials["stage"] == "full"].iloc[0]
    with safe_open(finished.directory / "full" / f"trial_{full['trial']}.safetensors", framework="pt") as file:
        numbers = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    assert full["trainable_parameters"] == numbers
    assert pd.api.types.is_integer_dtype(trials["mapping_width"]) and pd.api.types.is_float_dtype(trials["score"])
    assert list(trials.columns[-3:]) == ["measured_peak_bytes", "latency_seconds", "reason"]


def test_best_is_the_reported_one_and_is_on_the_front(run: nas.Run, finished: FinishedRun) -> None:
    best, trials = run.best, run.trials
    assert best is not None
    chosen = read_choice(finished.directory).best
    assert chosen is not None and (best["trial"], best["seed"]) == (chosen.trial, chosen.seed)
    full = trials[trials["stage"] == "full"]
    assert best["score"] == full["score"].max()
    front = run.front
    expected = {
        int(row["trial"])
        for _, row in full.iterrows()
        if not any(
            other["score"] >= row["score"]
            and other["predicted_peak_bytes"] <= row["predicted_peak_bytes"]
            and (other["score"], other["predicted_peak_bytes"]) != (row["score"], row["predicted_peak_bytes"])
            for _, other in full.iterrows()
        )
    }
    assert set(front["trial"]) == expected and list(front["score"]) == sorted(front["score"], reverse=True)


def test_best_may_be_a_training_with_a_further_seed(finished: FinishedRun) -> None:
    (entry,) = read_studies(finished.directory)
    result = entry.study.results("full")[1]
    again = entry.row(replace(result, key=RerunKey(CandidateKey(result.trial), 2), seed=7))
    assert again == entry.row(result) | {"seed": 7}
    default = entry.row(replace(result, key=RerunKey(DefaultKey(), 1)))
    assert default["trial"] is None and default["round"] is None and default["score"] == result.score


def test_report_and_verdict_are_those_of_the_files(run: nas.Run, finished: FinishedRun) -> None:
    assert run.state == "finished" and run.directory == finished.directory
    stored = json.loads((finished.directory / "report.json").read_text())
    assert run.report == {role: entry for role, entry in stored.items() if role != "crc32"}
    assert f"\n{run.verdict}\n" in finished.output
    assert len(run.reliability) > 3 and all(f"- {line}\n" in finished.output for line in run.reliability)


def test_models_are_loaded_and_exported(run: nas.Run, project: Project, tmp_path: Path) -> None:
    frame = pd.read_csv(project.manifest).head(6)
    loaded = run.load(device="cpu")
    frame["image"] = [Image.open(project.images / name) for name in frame["image"]]
    assert set(loaded.predict(frame)) <= set(loaded.class_names)
    exported = nas.load(run.export(tmp_path / "copy"), device="cpu")
    assert (exported.predict_proba(frame) == loaded.predict_proba(frame)).all(axis=None)
    assert run.load("default", device="cpu").directory == run.directory / "default"
    assert run.export(tmp_path / "linear", pick="linear") == tmp_path / "linear"
    with pytest.raises(ArgumentError, match=r"model: no such model; expected one of best, .*got 'worst'"):
        run.load("worst")
    with pytest.raises(ArgumentError, match=r"answer: not allowed; expected one of .*, got 'all'"):
        run.export(tmp_path / "x", answer="all")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"^pick: invalid value; expected answer, best"):
        run.export(tmp_path / "x", pick="anything")


def test_run_is_shown_in_a_line_and_as_escaped_html(run: nas.Run, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = "8 screened, 4 trained briefly, 2 trained completely"
    assert repr(run) == f"Run({str(run.directory)!r}, finished: {counts})"
    shown = run._repr_html_()
    answer = run.report["best"]
    assert f"<td>{answer['validation']['accuracy']:.3f}</td><td>{answer['test']['accuracy']:.3f}</td>" in shown
    assert shown.count("<tr>") == 5 and run.verdict in shown
    odd = copy.with_name("<b>&")
    copy.rename(odd)
    (odd / "report.json").write_text("{}")
    shown = run_as_html(nas.open_run(odd))
    assert "&lt;b&gt;&amp;" in shown and "<b>&" not in shown and "report.json: is damaged" in shown
    assert "cannot be read: " in repr(nas.open_run(odd))


def test_figures_have_the_candidates(run: nas.Run) -> None:
    trials = run.trials
    history = run.plot_history()
    assert type(history).__name__ == "Figure" and type(history).__module__.startswith("plotly.")
    assert sum(len(trace.y) for trace in history.data if trace.mode and "markers" in trace.mode) >= len(trials)
    front = run.plot_front()
    drawn = {round(float(value), 3) for trace in front.data for value in trace.y}
    assert {round(float(value), 3) for value in run.front["accuracy"]} <= drawn
    assert run.plot_time().data and run.plot_curves().data
    screened = trials[trials["stage"] == "one_shot"]
    if screened["accuracy"].nunique() > 1:
        assert run.plot_importance().data
    else:
        with pytest.raises(StudyError, match=r"too few results for this figure"):
            run.plot_importance()
    with pytest.raises(ArgumentError, match=r"cost: no such cost; expected one of memory, .*, got 'price'"):
        run.plot_front("price")  # type: ignore[arg-type]
    with pytest.raises(StudyError, match=r"too few results for this figure; continue with resume\(\)"):
        run.plot_front("latency")


def test_run_that_was_stopped_says_so(copy: Path) -> None:
    for name in ("report.json", "reliability.json"):
        (copy / name).unlink()
    shutil.rmtree(copy / "linear")
    stopped = nas.open_run(copy)
    assert stopped.state == "stopped" and stopped.report == {} and stopped.reliability == []
    assert stopped.verdict == "There is no verdict yet: the search is stopped; continue it with resume()."
    with pytest.raises(StudyError, match=r"linear: is not exported yet; continue the search with resume\(\)"):
        stopped.load("linear")
    assert "<table>" not in stopped._repr_html_()


def test_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(nas.NasError, match=r"holds no run; expected a file config.yaml in it"):
        nas.open_run(tmp_path)
    with pytest.raises(nas.NasError, match=r"holds no run"):
        nas.resume(tmp_path / "none", progress=False)


def test_tables_without_pandas_are_a_clear_error(run: nas.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(StudyError, match=r"pandas: is not installed; .*pip install 'pmf-nas\[pandas\]'"):
        _ = run.trials
    assert run.best is not None, "which needs no pandas"
