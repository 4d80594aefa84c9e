"""Searches that end before a candidate was trained completely: the best of the last stage is the result."""

import shutil
from pathlib import Path

import pytest
import yaml

from nas.cli import main
from nas.config.load import load_config
from nas.run.evaluate import evaluate_exported
from nas.run.executors import ExecutionOptions
from nas.run.exported_model import open_exported
from nas.run.finalize import read_report
from nas.run.phases.finalists import FinalistPhase
from nas.run.phases.linear import LinearPhase
from nas.run.roles import BEST, DEFAULT
from nas.search.promotion import PromotionQueue
from nas.search.trial import Result, Stage
from tests.support.project import Project
from tests.support.runs import counts_of, results_of, resume_search, run_search


def no_finalists(*_: object) -> None:
    return


def no_training(*_: object, **__: object) -> None:
    return


@pytest.fixture(scope="module")
def screened(project: Project, options: ExecutionOptions, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that has only screened candidates, ranked by the cross-entropy, and its output; no model is simpler."""
    run = tmp_path_factory.mktemp("lower") / "my run"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(LinearPhase, "run", no_training)
        patched.setattr(FinalistPhase, "run", no_finalists)
        patched.setattr(PromotionQueue, "next_training", no_training)
        source = project.write("lower.yaml", **{"search.proxy_metric": "cross_entropy", "search.finalists": 1})
        return run, run_search(source, run, options)


@pytest.fixture(scope="module")
def briefly(
    screened: tuple[Path, str], options: ExecutionOptions, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """The same run, resumed until candidates were trained briefly."""
    run = Path(shutil.copytree(screened[0], tmp_path_factory.mktemp("lower") / "run"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(LinearPhase, "run", no_training)
        patched.setattr(FinalistPhase, "run", no_finalists)
        return run, resume_search(run, options)


def best_of(run: Path, stage: Stage) -> Result:
    return min(results_of(run)[stage], key=lambda result: (-result.score, result.trial))


def check_model(folder: Path, project: Project, result: Result, words: str) -> None:
    """Check that a folder holds the model of a result, with its label."""
    metrics, *_ = evaluate_exported(folder, load_config(project.root / "search.yaml").data, "validation")
    assert metrics["cross_entropy"] == pytest.approx(result.metrics["cross_entropy"], abs=2e-3)
    described = yaml.safe_load((folder / "architecture.yaml").read_text())
    assert (described["trial"], described["stage"], described["training"]) == (result.trial, result.stage, words)
    assert open_exported(folder).model.fusion.architecture == result.architecture
    card = (folder / "README.md").read_text()
    assert f"| training | {words} |" in card and "A complete training would give a better model." in card


def test_search_that_only_screened_ends_with_the_best_slice_of_the_supernet(
    screened: tuple[Path, str], project: Project
) -> None:
    run, output = screened
    assert counts_of(run)[1:] == [0, 0]
    best = best_of(run, "one_shot")
    check_model(run / BEST, project, best, "screened")
    report = read_report(run)
    assert report[BEST]["stage"] == "one_shot" and report[BEST]["test_samples"] == 12 and DEFAULT not in report
    assert "\nanswer (best, only screened)" in output and report[BEST]["role"] == BEST
    assert f"Exported model: {run / BEST} (screened only, not trained completely)\n" in output
    hint = f"python run_search.py resume '{run}' --budget ..."
    assert f"For a better model, train candidates completely within a larger budget: {hint}\n" in output
    assert f"best: validation accuracy {best.metrics['accuracy']:.3f} with one seed" in output


def test_search_that_trained_briefly_ends_with_the_best_of_these(briefly: tuple[Path, str], project: Project) -> None:
    run, output = briefly
    counts = counts_of(run)
    assert counts[1] > 1 and counts[2] == 0
    best = best_of(run, "short")
    check_model(run / BEST, project, best, "trained briefly")
    assert "\nanswer (best, only trained briefly)" in output
    kept = [path.name for path in (run / "short").iterdir()]
    assert kept == [f"trial_{best.trial}.safetensors"], "as many as finalists"


def test_export_gives_any_candidate_with_the_furthest_weights_that_are_kept(
    briefly: tuple[Path, str], project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = briefly
    results = results_of(run)
    best = best_of(run, "short")
    other = next(result for result in results["short"] if result.trial != best.trial)
    untrained = next(
        result for result in results["one_shot"] if result.trial not in {entry.trial for entry in results["short"]}
    )
    for words, expected, label in (
        ([], best, "trained briefly"),
        (["--trial", str(best.trial)], best, "trained briefly"),
        (["--trial", str(other.trial)], results["one_shot"][other.trial], "screened"),
        (["--trial", str(untrained.trial)], untrained, "screened"),
        (["--pick", "smallest-within", "0.5"], best, "trained briefly"),
    ):
        assert main(["export", str(run), "--output", str(tmp_path / "model"), *words]) == 0
        printed = capsys.readouterr().out
        assert f"(trial {expected.trial}, {label}, " in printed and "For a better model" in printed
        check_model(tmp_path / "model", project, expected, label)
    assert main(["export", str(run), "--output", str(tmp_path / "none"), "--trial", "999"]) == 2
    assert "trial 999 has no score and cannot be exported; expected one of 0, 1, 2" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_complete_training_replaces_the_result_of_a_lower_stage(
    briefly: tuple[Path, str], options: ExecutionOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LinearPhase, "run", no_training)
    run = Path(shutil.copytree(briefly[0], tmp_path / "run"))
    output = resume_search(run, options)
    assert read_report(run)[BEST]["stage"] == "full" and DEFAULT in read_report(run)
    assert "For a better model" not in output and "only" not in output.split("validation accuracy")[0].splitlines()[-1]
    assert "trained completely, from fresh weights" in (run / BEST / "README.md").read_text()


def test_run_without_a_score_says_so_and_how_to_continue(
    project: Project,
    options: ExecutionOptions,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nas.run.phases.loop.check_time", no_training)
    run = tmp_path / "run"
    output = run_search(project.root / "search.yaml", run, options, time_seconds=0.001)
    hint = f"continue with a larger one: python run_search.py resume {run} --budget ..."
    last = [f"No candidate was scored within the budget; {hint}", f"Report: {run / 'report.html'}"]
    assert output.splitlines()[-2:] == last
    for words in ([], ["--trial", "0"]):
        assert main(["export", str(run), "--output", str(tmp_path / "model"), *words]) == 2
        assert f"No candidate was scored within the budget; {hint}" in capsys.readouterr().err
    (run / "supernet.safetensors").unlink()
    assert main(["export", str(run), "--output", str(tmp_path / "model")]) == 2
    assert "scored within the budget, and the supernet was not trained; " in capsys.readouterr().err
