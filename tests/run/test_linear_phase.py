"""The linear classifier that every search solves first."""

import re
from pathlib import Path

import pytest
import yaml

from nas.cli import main
from nas.config.load import load_config
from nas.run.evaluate import evaluate_exported
from nas.run.executors import ExecutionOptions
from nas.run.exported_model import open_exported
from nas.run.finalize import LINEAR, read_report
from nas.run.reruns import read_linear_result
from nas.search.keys import LinearKey
from tests.run.conftest import FinishedRun
from tests.support.project import Project
from tests.support.runs import resume_search


def test_classifier_is_solved_evaluated_and_shown(finished: FinishedRun, project: Project) -> None:
    run, lines = finished.directory, finished.output.splitlines()
    result, report = read_linear_result(run), read_report(run)[LINEAR]
    assert result is not None and result.key == LinearKey() and result.stage == "full"
    assert report["validation"]["accuracy"] == result.score and report["test_samples"] == 12
    shown = next(line for line in lines if line.startswith("linear classifier on the frozen encoders: "))
    assert f"accuracy {result.score:.3f}" in shown and "L2 penalty" in shown
    assert lines.index(shown) < next(place for place, line in enumerate(lines) if line.startswith("Supernet: "))
    row = next(line for line in lines if re.match(r"linear +linear +", line))
    assert f"{result.score:.3f}" in row and f"{report['test']['accuracy']:.3f}" in row
    (verdict,) = (place for place, line in enumerate(lines) if line.startswith("The best architecture"))
    assert "the linear classifier" in lines[verdict] and verdict < lines.index(row)
    metrics, *_ = evaluate_exported(run / LINEAR, load_config(project.root / "search.yaml").data, "validation")
    assert metrics == pytest.approx(result.metrics, abs=1e-4)
    fusion = open_exported(run / LINEAR).model.fusion
    assert fusion.architecture == result.architecture
    assert report["trainable_parameters"] == sum(
        parameter.numel() for parameter in fusion.parameters() if parameter.requires_grad
    )
    assert "Nothing but the classifier was trained" in (run / LINEAR / "README.md").read_text()


def test_classifier_is_exported_by_name(
    finished: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(finished.directory), "--output", str(tmp_path / "model"), "--pick", "linear"]) == 0
    assert "(linear, trained completely, linear)" in capsys.readouterr().out
    described = yaml.safe_load((tmp_path / "model" / "architecture.yaml").read_text())
    assert described["architecture"] == {"family": "linear"} and "test" in described
    weights = [folder / "model.safetensors" for folder in (tmp_path / "model", finished.directory / LINEAR)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_classifier_without_its_weights_or_result_is_solved_again_to_the_same_bits(
    copy: Path, options: ExecutionOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (copy / LINEAR / "model.safetensors").read_bytes()
    (copy / "linear.json").unlink()
    assert main(["export", str(copy), "--output", str(copy / "model"), "--pick", "linear"]) == 2
    assert "has no linear classifier yet; solve it with: " in capsys.readouterr().err
    (copy / "full" / "linear.safetensors").unlink()
    output = resume_search(copy, options)
    assert "linear classifier on the frozen encoders: " in output
    assert (copy / LINEAR / "model.safetensors").read_bytes() == before
