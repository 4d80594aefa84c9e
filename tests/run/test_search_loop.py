"""Whole searches of a small project in this process; Ray has its own tests in tests/execution."""

import csv
import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from nas.cli import main
from nas.common.errors import BudgetError
from nas.common.progress import LineReporter
from nas.config.load import load_config
from nas.execution.base import SupernetJob
from nas.execution.worker import CandidateWorker
from nas.run.directory import open_study, read_run
from nas.run.ensemble import read_choice
from nas.run.executors import ExecutionOptions
from nas.run.finalize import read_report
from nas.run.prepare import predict_memory, prepare
from nas.run.reruns import read_simple_result
from nas.run.results_csv import canonical_results
from nas.run.roles import LINEAR
from nas.run.shared_weights import ENCODERS, TRAINED
from nas.search.keys import ModelKey, RerunKey
from nas.search.trial import Job, Result
from nas.training.trainer import Trainer
from tests.run.conftest import FinishedRun
from tests.support.project import Project
from tests.support.runs import Killed, results_of, resume_search, run_search, without_measurements


def test_search_runs_the_configured_number_of_candidates_at_each_stage(finished: FinishedRun) -> None:
    directory, output = finished.directory, finished.output
    results = results_of(directory)
    assert [len(results[stage]) for stage in ("one_shot", "short", "full")] == [8, 4, 2]
    assert {result.step_count for result in results["short"]} == {3}
    assert {result.supernet_steps for result in results["full"]} == {0}
    assert len({result.architecture for result in results["one_shot"]}) == 8
    assert "PMF default" in output and f"Exported model: {directory / 'best'}" in output


def test_run_directory_records_configuration_results_and_report(finished: FinishedRun) -> None:
    directory = finished.directory
    with (directory / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 14 and {row["status"] for row in rows} == {"finished"}
    report = read_report(directory)
    assert set(report) == {"best", "default", "linear", "bilinear"}
    assert report["best"]["validation"]["accuracy"] >= max(result.score for result in results_of(directory)["full"])
    text = (directory / "config.yaml").read_text()
    assert all(name in text for name in ("seed:", "torch:", "transformers:", "optuna:", "ray:"))


@pytest.mark.parametrize("moment", [7, *(pytest.param(moment, marks=pytest.mark.long) for moment in (1, 3, 10))])
def test_search_killed_anywhere_ends_like_an_undisturbed_one(
    project: Project,
    finished: FinishedRun,
    options: ExecutionOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: int,
) -> None:
    run, calls = CandidateWorker.run, []

    def killed_at_moment(worker: CandidateWorker, job: Job, **rest: Any) -> list[Result]:
        calls.append(job)
        if len(calls) == moment:
            raise Killed
        return run(worker, job, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(CandidateWorker, "run", killed_at_moment)
        with pytest.raises(Killed):
            run_search(project.root / "search.yaml", tmp_path / "run", options)
    resume_search(tmp_path / "run", options)
    assert without_measurements(results_of(tmp_path / "run")) == without_measurements(results_of(finished.directory))


@pytest.mark.long
def test_supernet_killed_in_training_resumes_to_the_same_weights(
    project: Project,
    finished: FinishedRun,
    options: ExecutionOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step: Callable[..., None] = Trainer.apply

    def killed_at_step_six(trainer: Trainer, index: int, *rest: Any) -> None:
        if index == 6:
            raise Killed
        step(trainer, index, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "apply", killed_at_step_six)
        with pytest.raises(Killed):
            run_search(project.root / "search.yaml", tmp_path / "run", options)
    assert (tmp_path / "run" / "supernet_checkpoint.pt").exists()
    resume_search(tmp_path / "run", options)
    whole, resumed = (path / "supernet.safetensors" for path in (finished.directory, tmp_path / "run"))
    assert whole.read_bytes() == resumed.read_bytes()


@pytest.mark.long
def test_oversized_candidates_are_trained_in_micro_batches(
    project: Project, finished: FinishedRun, options: ExecutionOptions, tmp_path: Path
) -> None:
    peaks = sorted(result.predicted_peak_bytes for result in results_of(finished.directory)["one_shot"])
    source = project.write("accumulate.yaml", **{"budget.oversized": "accumulate"})
    output = run_search(source, tmp_path / "run", options, memory_bytes=peaks[len(peaks) // 2])
    results = results_of(tmp_path / "run")
    cut = [result for result in results["one_shot"] if result.micro_batches > 1]
    assert cut and len(results["one_shot"]) == 8 and "micro-batches" in output
    # The sampled supernet was trained in parts as well, so that weights and scores differ only by rounding.
    whole = {result.architecture: result.score for result in results_of(finished.directory)["one_shot"]}
    same = [result for result in results["one_shot"] if result.architecture in whole]
    assert same and all(result.score == pytest.approx(whole[result.architecture], abs=0.1) for result in same)


@pytest.mark.long
def test_supernet_that_fits_no_step_is_trained_in_smaller_parts_or_refused(
    project: Project, options: ExecutionOptions, tmp_path: Path
) -> None:
    # Few values: every combination of layers, prompts and parts is traced near the budget.
    changes = {"supernet.steps": 4, "budget.trials": 2, "space.fusion_layer": [2], "space.query_prompts": [1]}
    source = project.write("tight.yaml", **changes)
    config = load_config(source)
    prepared = prepare(config, source="", cache_directory=options.cache, reporter=LineReporter(io.StringIO()))
    smallest = config.space.smallest
    enough = prepared.memory.predict(smallest).peak_bytes
    assert enough < prepared.memory.predict_supernet(smallest).peak_bytes
    message = r"no step of the supernet fits .* with the smallest \(.*\) it needs .*; budget.oversized: accumulate"
    with pytest.raises(BudgetError, match=message):
        run_search(source, tmp_path / "whole", options, memory_bytes=enough)
    cut = project.write("tight_cut.yaml", **changes, **{"budget.oversized": "accumulate"})
    run_search(cut, tmp_path / "cut", options, memory_bytes=enough)
    assert len(results_of(tmp_path / "cut")["one_shot"]) == 2


def test_finalists_and_default_race_with_further_seeds(
    project: Project, options: ExecutionOptions, tmp_path: Path
) -> None:
    source = project.write("raced.yaml", **{"search.rerun_seeds": 2, "recipe.epochs": 1})
    run = tmp_path / "run"
    said = run_search(source, run, options)
    further = [Result.from_dict(entry) for entry in json.loads((run / "reruns.json").read_text())["trainings"]]
    default = Result.from_dict(json.loads((run / "default.json").read_text()))
    first = [*results_of(run)["full"], default]
    scores = {
        result.key: [result.score, *(again.score for again in further if _origin(again) == result.key)]
        for result in first
    }
    assert {again.architecture for again in further} <= {result.architecture for result in first}
    assert len({again.seed for again in further}) == len(further) > 0
    # A few validation samples separate nothing, so that all models get all seeds.
    assert {len(values) for values in scores.values()} == {3}
    best = max((result.key for result in results_of(run)["full"]), key=lambda key: sum(scores[key]))
    reliability = json.loads((run / "reliability.json").read_text())
    assert reliability["best"]["scores"] == scores[best]
    assert reliability["simple"]["default"]["scores"] == scores[default.key]
    assert reliability["race"]["trainings"] == 3 * len(first) + 2, "with the linear and the bilinear classifier"
    assert reliability["answer"] == reliability["race"]["answer"]
    assert all(f"{line}\n" in said for line in reliability["verdict"])
    assert list(reliability["phases"]) == ["linear", "bilinear", "supernet", "candidates", "finalists", "race"]
    assert reliability["trainings"] == {"one_shot": 8, "short": 4, "full": 2}
    report = read_report(run)
    found = read_choice(run)
    assert found.best is not None and found.best.score == max(scores[best]) and _origin(found.best) == best
    role, linear = reliability["race"]["answer"], read_simple_result(run, LINEAR)
    assert linear is not None
    first_of = {"best": best, "default": default.key, "linear": linear.key}
    assert report["best"]["role"] == role and _origin(Result.from_dict(report["best"]["result"])) == first_of[role]
    assert "How far to trust this result:" in said and "expected test accuracy of the answer" in said
    assert "Phase: race" in said
    assert "Phase: race" not in resume_search(run, options), "a race is run once"


def _origin(result: Result) -> ModelKey:
    return result.key.origin if isinstance(result.key, RerunKey) else result.key


def test_search_cannot_see_the_test_split(own_project: Project, options: ExecutionOptions, tmp_path: Path) -> None:
    """With other test labels, texts and images, every score and weight of the search is the same to the last bit."""
    source = own_project.write("honest.yaml", **{"search.rerun_seeds": 1, "recipe.epochs": 1})
    found = []
    for name in ("before", "after"):
        run_search(source, tmp_path / name, options, deterministic=True)
        with open_study(tmp_path / name, read_run(tmp_path / name)) as study:
            found.append(canonical_results(study))
        files = [
            "supernet.safetensors",
            *(f"{role}/{name}" for role in ("best", "default", "linear", "bilinear") for name in (ENCODERS, TRAINED)),
        ]
        found[-1] += "".join(hashlib.sha256((tmp_path / name / file).read_bytes()).hexdigest() for file in files)
        with own_project.manifest.open() as file:
            rows = list(csv.DictReader(file))
        tested = [row for row in rows if row["split"] == "test"]
        labels = [row["label"] for row in tested]
        for row, label in zip(tested, [*labels[1:], labels[0]], strict=True):
            row.update(label=label, text=f"{label} {label} {label}", image=rows[0]["image"])
        with own_project.manifest.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    assert found[0] == found[1]
    reports = [json.loads((tmp_path / name / "report.json").read_text())["best"] for name in ("before", "after")]
    assert reports[0]["test"] != reports[1]["test"], "or the test split would not have changed"
    assert reports[0]["validation"] == reports[1]["validation"]


@pytest.mark.long
def test_costs_are_minimised_and_constraints_are_met(
    project: Project, options: ExecutionOptions, tmp_path: Path
) -> None:
    plain = load_config(project.root / "search.yaml")
    memory, _ = predict_memory(plain, source="")
    bound = sorted(memory.parameter_count(architecture) for architecture in plain.space)[plain.space.size // 2]
    source = project.write(
        "costly.yaml",
        **{
            "search.objective": ["accuracy", "latency", "trainable_parameters"],
            "search.constraints": [f"trainable_parameters <= {bound}", "latency <= 1s", "accuracy >= 0"],
            "search.strategy": "nsga2",
            "search.latency_batch": 2,
        },
    )
    run = tmp_path / "run"
    run_search(source, run, options)
    results = results_of(run)
    assert [len(results[stage]) for stage in ("one_shot", "short", "full")] == [8, 4, 2]
    for result in (entry for stage in results.values() for entry in stage):
        assert memory.parameter_count(result.architecture) <= bound
        assert result.latency_seconds is not None and 0 < result.latency_seconds < 1
    with open_study(run, read_run(run)) as study:
        too_large = [entry for entry in study.rejections if f"trainable_parameters <= {bound}: got" in entry.reason]
        assert too_large and all(memory.parameter_count(entry.architecture) > bound for entry in too_large)
    linear = read_simple_result(run, LINEAR)
    assert linear is not None and linear.latency_seconds is not None and 0 < linear.latency_seconds < 1
    assert json.loads((run / "reliability.json").read_text())["excluded"].get("linear") == (
        f"trainable_parameters <= {bound}" if memory.parameter_count(linear.architecture) > bound else None
    )
    for how in (["best"], ["knee"], ["smallest-within", "1"]):
        model = tmp_path / how[0]
        assert main(["export", str(run), "--output", str(model), "--pick", *how]) == 0
    described = yaml.safe_load((tmp_path / "smallest-within" / "architecture.yaml").read_text())
    assert described["trainable_parameters"] == min(
        memory.parameter_count(result.architecture) for result in results["full"]
    )


@pytest.mark.long
def test_only_workers_that_release_freed_memory_correct_predictions(
    project: Project, finished: FinishedRun, options: ExecutionOptions, tmp_path: Path
) -> None:
    directory, output = finished.directory, finished.output
    assert all(result.kept_freed_memory for stage in results_of(directory).values() for result in stage)
    assert "predicted memory" not in output
    largest = max(result.predicted_peak_bytes for stage in results_of(directory).values() for result in stage)
    output = run_search(project.root / "search.yaml", tmp_path / "run", options, memory_bytes=largest, trials=4)
    trained = results_of(tmp_path / "run")["short"]
    assert trained and not any(result.kept_freed_memory for result in trained)
    assert f" over {len(trained) + 2} trainings" in output  # two finalists as well


def test_deleted_export_is_restored_without_another_evaluation_on_test(
    finished: FinishedRun, options: ExecutionOptions, tmp_path: Path
) -> None:
    shutil.copytree(finished.directory, tmp_path / "run")
    before = (tmp_path / "run" / "best" / "architecture.yaml").read_bytes()
    shutil.rmtree(tmp_path / "run" / "best")
    output = resume_search(tmp_path / "run", options)
    assert "evaluating" not in output
    assert (tmp_path / "run" / "best" / "architecture.yaml").read_bytes() == before


def test_supernet_samples_only_what_meets_the_constraints(
    project: Project, options: ExecutionOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = load_config(project.root / "search.yaml")
    memory, _ = predict_memory(plain, source="")
    bound = sorted(memory.parameter_count(architecture) for architecture in plain.space)[plain.space.size // 2]
    jobs: list[SupernetJob] = []

    def killed(self: CandidateWorker, job: SupernetJob, *arguments: Any, **named: Any) -> int:
        jobs.append(job)
        raise Killed

    monkeypatch.setattr(CandidateWorker, "train_supernet", killed)
    given = {"sampling": "sandwich", "steps": 6, "architectures_per_step": 3}
    changes = {"search.constraints": [f"trainable_parameters <= {bound}"]}
    with pytest.raises(Killed):
        run_search(project.write("bounded.yaml", supernet=given, **changes), tmp_path / "run", options)
    (job,) = jobs
    assert job.feasible and all(memory.parameter_count(entry) <= bound for entry in job.feasible)
    assert plain.space.smallest in job.feasible
