"""The report of `evaluate`: as text, as JSON, and in a file."""

import json
from pathlib import Path

import numpy as np
import pytest

from nas.cli import main
from nas.run.evaluate import Evaluation
from nas.run.evaluation_report import report_lines
from nas.training.class_scores import ClassScore, Details
from tests.support.project import Project


@pytest.fixture
def words(project: Project, model: Path) -> list[str]:
    return ["evaluate", str(model), "--data", str(project.manifest), "--images", str(project.images)]


def test_report_has_the_classes_their_confusions_and_the_calibration(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "more" / "report.json"
    assert main([*words, "--output", str(output), "--split", "all"]) == 0
    metrics, classes, bins, confusions = capsys.readouterr().out.split("\n\n")
    report = json.loads(output.read_text())
    assert list(report) == [
        *("samples", "metrics", "classes", "confusion_matrix", "expected_calibration_error", "reliability", "notes")
    ]
    assert report["samples"] == 60 == sum(map(sum, report["confusion_matrix"]))
    hits = sum(report["confusion_matrix"][index][index] for index in range(3))
    assert report["metrics"]["accuracy"] == pytest.approx(hits / 60)
    assert f"accuracy: {report['metrics']['accuracy']:.6f}" in metrics
    assert f"expected calibration error: {report['expected_calibration_error']:.6f} (15 bins)" in metrics
    header, _, *rows = classes.splitlines()
    assert header.split() == ["class", "samples", "predicted", "precision", "recall", "F1"]
    assert [row.split()[:3] for row in rows] == [
        [entry["name"], "20", str(entry["predicted"])] for entry in report["classes"]
    ]
    assert bins.splitlines()[0].split() == ["probability", "predictions", "mean", "right"]
    assert confusions.startswith("most frequent confusions: ") and "all 60 samples are evaluated" in confusions
    assert main([*words, "--json", "--split", "all"]) == 0
    assert json.loads(capsys.readouterr().out) == report


def test_existing_report_is_replaced_only_on_request(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "report.json"
    output.write_text("old")
    assert main([*words, "--output", str(output)]) == 2
    assert "exists; expected a new file, or --overwrite" in capsys.readouterr().err and output.read_text() == "old"
    assert main([*words, "--output", str(output), "--overwrite"]) == 0
    assert json.loads(output.read_text())["samples"] == 12


def test_table_without_splits_is_evaluated_as_a_whole(
    words: list[str], project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [line.rpartition(",")[0] for line in project.manifest.read_text().splitlines()]
    (tmp_path / "new.csv").write_text("\n".join(rows[:21]))
    words[3] = str(tmp_path / "new.csv")
    assert main([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["samples"] == 20
    assert report["notes"] == [f"{words[3]}: has no column of splits; all 20 samples are evaluated"]


def test_of_many_classes_those_with_the_lowest_f1_are_shown() -> None:
    classes = [ClassScore(f"c{index:02}", 1, 1, 0.5, 0.5, index / 30) for index in range(25)]
    details = Details(classes, np.eye(25, dtype=np.int64), [])
    shown = "\n".join(report_lines(Evaluation({"accuracy": 1.0}, 25, [], details)))
    assert "the 20 classes of 25 with the lowest F1 (--json shows all):" in shown
    assert "c19" in shown and "c20" not in shown and "confusions" not in shown
