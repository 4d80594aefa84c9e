"""The whole loop on a little project, in this process; Ray has its own test in tests/execution."""

import csv
import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from nas.cli import main
from nas.common.errors import BudgetError, DataError, NasError, StudyError, TrainingError
from nas.common.progress import LineReporter
from nas.config.load import load_config
from nas.execution.base import SupernetJob
from nas.execution.worker import CandidateWorker
from nas.run.commands import Overrides, resume, start
from nas.run.directory import open_study, read_run
from nas.run.executors import ExecutionOptions
from nas.run.prepare import predict_memory, prepare
from nas.run.results_csv import canonical_results
from nas.run.select import best_full
from nas.search.keys import DefaultKey
from nas.search.space.families import FAMILIES
from nas.search.trial import Job, Result
from nas.training.trainer import Trainer
from tests.support.project import Project


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> ExecutionOptions:
    return ExecutionOptions(worker_count=0, cache_directory=tmp_path_factory.mktemp("cache"))


def search(source: Path, directory: Path, machine: ExecutionOptions, **overrides: Any) -> str:
    stream = io.StringIO()
    start(source, directory, Overrides(**overrides), machine, LineReporter(stream))
    return stream.getvalue()


def go_on(directory: Path, machine: ExecutionOptions, **overrides: Any) -> str:
    stream = io.StringIO()
    resume(directory, Overrides(**overrides), machine, LineReporter(stream))
    return stream.getvalue()


def results_of(directory: Path) -> dict[str, list[Result]]:
    with open_study(directory, read_run(directory)) as study:
        return {stage: study.results(stage) for stage in ("one_shot", "short", "full")}


def without_measurements(results: dict[str, list[Result]]) -> list[dict[str, Any]]:
    measured = ("seconds", "measured_peak_bytes")
    return [
        {key: value for key, value in result.as_dict().items() if key not in measured}
        for stage in results.values()
        for result in stage
    ]


@pytest.fixture(scope="module")
def finished(project: Project, machine: ExecutionOptions, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    directory = tmp_path_factory.mktemp("runs") / "whole"
    return directory, search(project.root / "search.yaml", directory, machine)


def test_a_study_in_a_database_is_the_same_and_is_found_again(
    project: Project,
    finished: tuple[Path, str],
    machine: ExecutionOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    kept = replace(machine, storage="sqlite:///study.db")
    search(project.root / "search.yaml", tmp_path / "run", kept, trials=4)
    monkeypatch.chdir(project.root)
    go_on(tmp_path / "run", machine, trials=8)  # where the database is, the run knows
    scored = results_of(tmp_path / "run")["one_shot"]
    assert [(entry.trial, entry.architecture, entry.score) for entry in scored] == [
        (entry.trial, entry.architecture, entry.score) for entry in results_of(finished[0])["one_shot"]
    ]
    with pytest.raises(StudyError, match=r"--storage sqlite:///other\.db: the run .* keeps its study in sqlite:///"):
        go_on(tmp_path / "run", replace(machine, storage="sqlite:///other.db"))
    assert not (project.root / "other.db").exists()


def test_a_search_scores_trains_and_finishes_as_many_as_configured(finished: tuple[Path, str]) -> None:
    directory, output = finished
    results = results_of(directory)
    assert [len(results[stage]) for stage in ("one_shot", "short", "full")] == [8, 4, 2]
    assert {result.step_count for result in results["short"]} == {3}
    assert {result.supernet_steps for result in results["full"]} == {0}
    assert len({result.architecture for result in results["one_shot"]}) == 8
    assert "PMF default" in output and f"Exported model: {directory / 'best'}" in output


def test_every_output_line_is_one_event(finished: tuple[Path, str]) -> None:
    _, output = finished
    assert "\r" not in output and "\x1b" not in output
    assert sum(line.startswith("trial ") for line in output.splitlines()) == 8 + 4 + 2 + 1


def test_the_run_directory_tells_the_whole_story(finished: tuple[Path, str]) -> None:
    directory, _ = finished
    with (directory / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 14 and {row["status"] for row in rows} == {"finished"}
    report = json.loads((directory / "report.json").read_text())
    assert set(report) == {"best", "default"}
    assert report["best"]["validation"]["accuracy"] >= max(result.score for result in results_of(directory)["full"])
    text = (directory / "config.yaml").read_text()
    assert all(name in text for name in ("seed:", "torch:", "transformers:", "optuna:", "ray:"))


def test_a_finished_search_resumed_has_nothing_to_do(finished: tuple[Path, str], machine: ExecutionOptions) -> None:
    directory, _ = finished
    before = (results_of(directory), (directory / "report.json").read_text())
    output = go_on(directory, machine)
    assert not any(line.startswith("trial ") for line in output.splitlines())
    assert (results_of(directory), (directory / "report.json").read_text()) == before


class Killed(BaseException):
    """Stands for `kill -9`: nothing in the program may handle it."""


@pytest.mark.parametrize("moment", [1, 3, 7, 10])
def test_a_search_killed_anywhere_ends_like_an_undisturbed_one(
    project: Project,
    finished: tuple[Path, str],
    machine: ExecutionOptions,
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
            search(project.root / "search.yaml", tmp_path / "run", machine)
    go_on(tmp_path / "run", machine)
    assert without_measurements(results_of(tmp_path / "run")) == without_measurements(results_of(finished[0]))


def test_a_supernet_killed_in_training_goes_on_to_the_same_weights(
    project: Project,
    finished: tuple[Path, str],
    machine: ExecutionOptions,
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
            search(project.root / "search.yaml", tmp_path / "run", machine)
    assert (tmp_path / "run" / "supernet_checkpoint.pt").exists()
    go_on(tmp_path / "run", machine)
    whole, resumed = (path / "supernet.safetensors" for path in (finished[0], tmp_path / "run"))
    assert whole.read_bytes() == resumed.read_bytes()


def test_a_larger_budget_goes_on_where_the_smaller_ended(
    project: Project, finished: tuple[Path, str], machine: ExecutionOptions, tmp_path: Path
) -> None:
    search(project.root / "search.yaml", tmp_path / "run", machine, trials=4)
    assert len(results_of(tmp_path / "run")["one_shot"]) == 4
    go_on(tmp_path / "run", machine, trials=8)
    inherited = results_of(tmp_path / "run")["one_shot"]
    assert len(inherited) == 8
    assert [result.score for result in inherited[:4]] == [
        result.score for result in results_of(finished[0])["one_shot"][:4]
    ]


def test_candidates_that_cannot_fit_are_recorded_once_and_never_trained(
    project: Project, finished: tuple[Path, str], machine: ExecutionOptions, tmp_path: Path
) -> None:
    peaks = sorted(result.predicted_peak_bytes for result in results_of(finished[0])["one_shot"])
    limit = peaks[len(peaks) // 2]
    search(project.root / "search.yaml", tmp_path / "run", machine, memory_bytes=limit, trials=12)
    with open_study(tmp_path / "run", read_run(tmp_path / "run")) as study:
        infeasible = [entry.architecture for entry in study.rejections]
        assert {entry.status for entry in study.rejections} == {"infeasible"}
        assert infeasible and len(infeasible) == len(set(infeasible))
        scored = [result.architecture for stage in ("one_shot", "short", "full") for result in study.results(stage)]
        assert not set(scored) & set(infeasible)
        assert len(study.results("one_shot")) == 12
        assert all(result.predicted_peak_bytes <= limit for result in study.results("one_shot"))


def test_with_accumulation_what_is_too_large_is_trained_in_micro_batches(
    project: Project, finished: tuple[Path, str], machine: ExecutionOptions, tmp_path: Path
) -> None:
    peaks = sorted(result.predicted_peak_bytes for result in results_of(finished[0])["one_shot"])
    source = project.write("accumulate.yaml", **{"budget.oversized": "accumulate"})
    output = search(source, tmp_path / "run", machine, memory_bytes=peaks[len(peaks) // 2])
    results = results_of(tmp_path / "run")
    cut = [result for result in results["one_shot"] if result.micro_batches > 1]
    assert cut and len(results["one_shot"]) == 8 and "micro-batches" in output
    # The sampled supernet was trained in parts as well, so that weights and scores differ by rounding alone.
    whole = {result.architecture: result.score for result in results_of(finished[0])["one_shot"]}
    same = [result for result in results["one_shot"] if result.architecture in whole]
    assert same and all(result.score == pytest.approx(whole[result.architecture], abs=0.1) for result in same)


def test_where_a_candidate_fits_and_no_step_of_the_supernet_it_is_trained_in_smaller_parts_or_named(
    project: Project, machine: ExecutionOptions, tmp_path: Path
) -> None:
    source = project.write("tight.yaml", **{"supernet.steps": 10, "budget.trials": 2})
    config = load_config(source)
    prepared = prepare(config, source="", cache_directory=machine.cache, reporter=LineReporter(io.StringIO()))
    smallest = config.space.smallest
    enough = prepared.memory.predict(smallest).peak_bytes
    assert enough < prepared.memory.predict_supernet(smallest).peak_bytes
    message = r"no step of the supernet fits .* with the smallest \(.*\) it needs .*; budget.oversized: accumulate"
    with pytest.raises(BudgetError, match=message):
        search(source, tmp_path / "whole", machine, memory_bytes=enough)
    cut = project.write(
        "tight_cut.yaml", **{"supernet.steps": 10, "budget.trials": 2, "budget.oversized": "accumulate"}
    )
    search(cut, tmp_path / "cut", machine, memory_bytes=enough)
    assert len(results_of(tmp_path / "cut")["one_shot"]) == 2


def test_best_and_default_are_trained_with_more_seeds_and_it_is_said_how_far_to_trust_them(
    project: Project, machine: ExecutionOptions, tmp_path: Path
) -> None:
    source = project.write("confirmed.yaml", **{"search.rerun_seeds": 3})
    run = tmp_path / "run"
    said = search(source, run, machine)
    kept = json.loads((run / "confirmation.json").read_text())
    results = [Result.from_dict(entry["result"]) for entry in kept]
    best = max(results_of(run)["full"], key=lambda result: (result.score, -result.trial)).architecture
    default = Result.from_dict(json.loads((run / "default.json").read_text()))
    assert [(entry.architecture, item["repetition"]) for entry, item in zip(results, kept, strict=True)] == [
        (architecture, number) for architecture in (best, default.architecture) for number in (1, 2, 3)
    ]
    assert len({entry.seed for entry in results}) == 6
    evidence = json.loads((run / "reliability.json").read_text())
    for role, architecture in (("best", best), ("default", default.architecture)):
        scores = [entry.score for entry in results if entry.architecture == architecture]
        assert evidence[role]["scores"] == scores, "without the score that the best was chosen by"
    assert list(evidence["phases"]) == ["supernet", "candidates", "finalists"]
    assert evidence["trainings"] == {"one_shot": 8, "short": 4, "full": 2}
    assert [entry["count"] for entry in evidence["agreements"]] == [4, 2, 2]
    assert said.count("again full accuracy=") == 6 and "How far to trust this result:" in said
    assert "mean of 3 new seeds" in said
    left = {path.name for path in (run / "full").iterdir()}
    assert not any(f"_-{number}." in name for name in left for number in range(2, 8))
    assert "again full" not in go_on(run, machine), "it is done once"


def test_nothing_of_the_test_split_can_reach_the_search(
    own_project: Project, machine: ExecutionOptions, tmp_path: Path
) -> None:
    """With other test labels, texts and images, every score and weight of the search is the same to the last bit."""
    source = own_project.write("honest.yaml", **{"search.rerun_seeds": 2})
    found = []
    for name in ("before", "after"):
        search(source, tmp_path / name, machine, deterministic=True)
        with open_study(tmp_path / name, read_run(tmp_path / name)) as study:
            found.append(canonical_results(study))
        files = ["supernet.safetensors", "best/model.safetensors", "default/model.safetensors"]
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


def test_a_warm_start_scores_first_what_an_earlier_run_has_found(
    project: Project, finished: tuple[Path, str], machine: ExecutionOptions, tmp_path: Path
) -> None:
    earlier = results_of(finished[0])
    best = [max(earlier[stage], key=lambda result: (result.score, -result.trial)) for stage in ("full", "short")]
    source, run = project.write("warm.yaml", **{"search.strategy": "random"}), tmp_path / "run"
    search(source, run, machine, warm_start=finished[0], seed=5)
    scored = [result.architecture for result in results_of(run)["one_shot"]]
    space = load_config(source).space
    given = dict.fromkeys([space.smallest, space.largest, *(result.architecture for result in best)])
    assert scored[: len(given)] == list(given)
    assert "nothing to do" not in go_on(run, machine), "the run knows what it was given"
    other = project.write("elsewhere.yaml", **{"space.mapping_width": [5, 6]})
    with pytest.raises(StudyError, match=r"--warm-start .*: this search space contains none of the best"):
        search(other, tmp_path / "other", machine, warm_start=finished[0])


def test_costs_are_objectives_and_bounds_are_kept(project: Project, machine: ExecutionOptions, tmp_path: Path) -> None:
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
    search(source, run, machine)
    results = results_of(run)
    assert [len(results[stage]) for stage in ("one_shot", "short", "full")] == [8, 4, 2]
    for result in (entry for stage in results.values() for entry in stage):
        assert memory.parameter_count(result.architecture) <= bound
        assert result.latency_seconds is not None and 0 < result.latency_seconds < 1
    with open_study(run, read_run(run)) as study:
        too_large = [entry for entry in study.rejections if f"trainable_parameters <= {bound}: got" in entry.reason]
        assert too_large and all(memory.parameter_count(entry.architecture) > bound for entry in too_large)
    for how in (["best"], ["knee"], ["smallest-within", "1"]):
        model = tmp_path / how[0]
        assert main(["export", str(run), "--output", str(model), "--pick", *how]) == 0
    described = yaml.safe_load((tmp_path / "smallest-within" / "architecture.yaml").read_text())
    assert described["trainable_parameters"] == min(
        memory.parameter_count(result.architecture) for result in results["full"]
    )


def test_candidates_can_be_compared_by_cross_entropy(
    project: Project, machine: ExecutionOptions, tmp_path: Path
) -> None:
    source = project.write("smooth.yaml", **{"search.proxy_metric": "cross_entropy"})
    output = search(source, tmp_path / "run", machine)
    assert "one_shot cross_entropy=-" in output and "full accuracy=0." in output
    results = results_of(tmp_path / "run")
    for result in results["one_shot"] + results["short"]:
        assert result.score == -result.metrics["cross_entropy"]
    assert all(result.score == result.metrics["accuracy"] for result in results["full"])
    promoted = {result.trial for result in results["full"]}
    ranked = sorted(results["short"], key=lambda result: result.metrics["cross_entropy"])
    assert promoted == {result.trial for result in ranked[:2]}


def test_a_budget_in_which_nothing_fits_is_refused_and_leaves_the_reason(
    project: Project, machine: ExecutionOptions, tmp_path: Path
) -> None:
    with pytest.raises(BudgetError, match=r"memory budget 1\.00 MiB: not even the smallest architecture"):
        search(project.root / "search.yaml", tmp_path / "run", machine, memory_bytes=2**20)


@pytest.mark.parametrize(
    ("bound", "message"),
    [
        (
            "trainable_parameters <= 10",
            r"search\.constraints: trainable_parameters <= 10: not even the smallest .* meets it",
        ),
        ("peak_memory <= 1MiB", r"search\.constraints: peak_memory <= 1048576B: not even the smallest architecture"),
    ],
)
def test_a_bound_that_nothing_meets_is_named_before_anything_is_trained(
    project: Project, machine: ExecutionOptions, tmp_path: Path, bound: str, message: str
) -> None:
    source = project.write("bound.yaml", **{"search.constraints": [bound]})
    with pytest.raises(BudgetError, match=message):
        search(source, tmp_path / "run", machine)
    assert not (tmp_path / "run" / "supernet.safetensors").exists()


def test_the_supernet_trains_only_what_meets_the_bounds(
    project: Project, machine: ExecutionOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = load_config(project.root / "search.yaml")
    memory, _ = predict_memory(plain, source="")
    bound = sorted(memory.parameter_count(architecture) for architecture in plain.space)[plain.space.size // 2]
    orders: list[SupernetJob] = []
    train = CandidateWorker.train_supernet

    def noted(self: CandidateWorker, order: SupernetJob, *arguments: Any, **options: Any) -> int:
        orders.append(order)
        return train(self, order, *arguments, **options)

    monkeypatch.setattr(CandidateWorker, "train_supernet", noted)
    given = {"sampling": "sandwich", "steps": 6, "architectures_per_step": 3}
    source = project.write(
        "bounded.yaml", supernet=given, **{"search.constraints": [f"trainable_parameters <= {bound}"]}
    )
    search(source, tmp_path / "run", machine)
    (order,) = orders
    assert order.feasible and all(memory.parameter_count(entry) <= bound for entry in order.feasible)
    assert plain.space.smallest in order.feasible


def test_a_bound_that_no_full_training_meets_is_named(
    project: Project, machine: ExecutionOptions, tmp_path: Path
) -> None:
    source = project.write("best.yaml", **{"search.constraints": ["accuracy >= 1.01"]})
    with pytest.raises(StudyError, match=r"none of the 2 completely trained candidates meets accuracy >= 1\.01"):
        search(source, tmp_path / "run", machine)
    assert len(results_of(tmp_path / "run")["full"]) == 2
    assert best_full(tmp_path / "run") is None


def test_a_small_space_is_exhausted_and_says_so(project: Project, machine: ExecutionOptions, tmp_path: Path) -> None:
    one_gene = {f"space.{gene}": [1] for gene in ("query_prompts", "query_context_prompts", "fusion_context_prompts")}
    source = project.write("small.yaml", **one_gene, **{"space.mapping_width": [4], "budget.trials": 50})
    output = search(source, tmp_path / "run", machine)
    assert "the search space is exhausted" in output
    assert len(results_of(tmp_path / "run")["one_shot"]) == 3


def test_candidates_that_all_fail_alike_stop_the_search_with_the_cause(
    project: Project, machine: ExecutionOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(worker: CandidateWorker, job: Job, **rest: Any) -> list[Result]:
        raise TrainingError("the loss is nan")

    monkeypatch.setattr(CandidateWorker, "run", fail)
    with pytest.raises(
        TrainingError, match="3 consecutive candidates failed with the same cause: TrainingError: the loss is nan"
    ):
        search(project.root / "search.yaml", tmp_path / "run", machine)
    monkeypatch.undo()
    go_on(tmp_path / "run", machine)
    assert len(results_of(tmp_path / "run")["one_shot"]) == 8  # the cause was not theirs: they were tried again


def test_a_candidate_that_fails_alone_is_recorded_and_the_search_goes_on(
    project: Project, machine: ExecutionOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = CandidateWorker.run

    def fail_with_trial_three(worker: CandidateWorker, job: Job, **rest: Any) -> list[Result]:
        if job.stage == "one_shot" and any(member.trial == 3 for member in job.members):
            raise TrainingError("always")
        return run(worker, job, **rest)

    monkeypatch.setattr(CandidateWorker, "run", fail_with_trial_three)
    search(project.root / "search.yaml", tmp_path / "run", machine)
    with open_study(tmp_path / "run", read_run(tmp_path / "run")) as study:
        rejections = [(entry.trial, entry.status, entry.reason) for entry in study.rejections]
        assert rejections == [(3, "failed", "TrainingError: always")]
        assert len(study.results("one_shot")) == 7  # a failed trial is a trial of the budget


def test_the_time_budget_ends_the_search_and_keeps_the_running_for_later(
    project: Project, machine: ExecutionOptions, tmp_path: Path
) -> None:
    output = search(project.root / "search.yaml", tmp_path / "run", machine, time_seconds=0.05)
    assert "No candidate was trained completely within the budget" in output
    go_on(tmp_path / "run", machine, trials=8)
    assert [len(entries) for entries in results_of(tmp_path / "run").values()] == [8, 4, 2]


def test_the_same_search_in_its_directory_goes_on_and_another_is_refused_key_by_key(
    project: Project, finished: tuple[Path, str], machine: ExecutionOptions, tmp_path: Path
) -> None:
    shutil.copytree(finished[0], tmp_path / "run")
    output = search(project.root / "search.yaml", tmp_path / "run", machine, trials=9)
    assert "holds this search; resuming it" in output and "9 screened" in output
    other = project.write("other.yaml", **{"space.query_prompts": [1, 2, 4], "recipe.epochs": 5})
    with pytest.raises(StudyError) as refused:
        search(other, tmp_path / "run", machine)
    assert "recipe.epochs" in str(refused.value) and "space.query_prompts" in str(refused.value)
    assert "new directory (--run-dir)" in str(refused.value)
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("epochs: 4", "epochs: 6"))
    with pytest.raises(StudyError, match=r"recipe\.epochs"):
        go_on(tmp_path / "run", machine)


def test_the_start_says_what_is_kept_for_whom(finished: tuple[Path, str]) -> None:
    assert "1 worker(s) on 1 device(s). Each training needs" in finished[1]


def test_a_directory_in_use_or_of_something_else_is_not_overwritten(
    project: Project, finished: tuple[Path, str], machine: ExecutionOptions, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(StudyError, match="is not empty"):
        search(project.root / "search.yaml", tmp_path / "mine", machine)
    with pytest.raises(StudyError, match="holds no run"):
        go_on(tmp_path / "none", machine)


def test_a_smaller_memory_budget_leaves_out_what_no_longer_fits_and_a_larger_takes_it_in(
    project: Project, finished: tuple[Path, str], machine: ExecutionOptions, tmp_path: Path
) -> None:
    peaks = sorted(result.predicted_peak_bytes for result in results_of(finished[0])["one_shot"])
    limit = peaks[len(peaks) // 2]
    search(project.root / "search.yaml", tmp_path / "run", machine, trials=5)
    go_on(tmp_path / "run", machine, memory_bytes=limit, trials=10)
    later = results_of(tmp_path / "run")["one_shot"][5:]
    assert len(later) == 5 and all(result.predicted_peak_bytes <= limit for result in later)
    go_on(tmp_path / "run", machine, memory_bytes=2**32, trials=1000)
    results = results_of(tmp_path / "run")["one_shot"]
    assert len({result.architecture for result in results}) == len(results) == 48  # the whole space


def test_only_workers_that_give_back_what_they_free_correct_predictions(
    project: Project, finished: tuple[Path, str], machine: ExecutionOptions, tmp_path: Path
) -> None:
    directory, output = finished
    assert all(result.kept_freed_memory for stage in results_of(directory).values() for result in stage)
    assert "predicted peaks" not in output
    largest = max(result.predicted_peak_bytes for stage in results_of(directory).values() for result in stage)
    output = search(project.root / "search.yaml", tmp_path / "run", machine, memory_bytes=largest, trials=4)
    trained = results_of(tmp_path / "run")["short"]
    assert trained and not any(result.kept_freed_memory for result in trained)
    assert f"predicted peaks: {len(trained) + 2} measured" in output  # two finalists as well


def test_a_default_that_cannot_be_trained_does_not_cost_the_answer(
    project: Project, machine: ExecutionOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = CandidateWorker.run

    def fail_default(worker: CandidateWorker, job: Job, **rest: Any) -> list[Result]:
        if isinstance(job.key, DefaultKey):
            raise TrainingError("diverged")
        return run(worker, job, **rest)

    monkeypatch.setattr(CandidateWorker, "run", fail_default)
    output = search(project.root / "search.yaml", tmp_path / "run", machine)
    assert "trial default full failed: TrainingError: diverged" in output and "Exported model" in output


def test_changed_data_is_refused_because_the_scores_do_not_hold(
    own_project: Project, machine: ExecutionOptions, tmp_path: Path
) -> None:
    search(own_project.root / "search.yaml", tmp_path / "run", machine, trials=2)
    text = own_project.manifest.read_text()
    own_project.manifest.write_text(text.replace("apple", "cat", 1))
    with pytest.raises(StudyError, match="its data or encoders have changed since it was started"):
        go_on(tmp_path / "run", machine, trials=4)


def test_metrics_of_a_test_split_that_has_changed_are_asked_anew(
    own_project: Project, machine: ExecutionOptions, tmp_path: Path
) -> None:
    search(own_project.root / "search.yaml", tmp_path / "run", machine, trials=2)
    before = json.loads((tmp_path / "run" / "report.json").read_text())
    assert "evaluating" not in go_on(tmp_path / "run", machine)
    lines = own_project.manifest.read_text().splitlines()
    place = next(place for place, line in enumerate(lines) if line.endswith(",test"))
    own_project.manifest.write_text("\n".join([*lines[:place], *lines[place + 1 :]]) + "\n")
    assert go_on(tmp_path / "run", machine).count("evaluating the exported and reloaded model on the test split") == 2
    after = json.loads((tmp_path / "run" / "report.json").read_text())
    assert {after[role]["test_samples"] for role in after} == {before["best"]["test_samples"] - 1}


def test_an_unusable_test_split_is_found_before_the_search(
    own_project: Project, machine: ExecutionOptions, tmp_path: Path
) -> None:
    own_project.manifest.write_text(own_project.manifest.read_text().replace(",test", ",train"))
    with pytest.raises(
        DataError, match=r"the test split is empty; expected at least one sample; set data.held_out.test"
    ):
        search(own_project.root / "search.yaml", tmp_path / "run", machine)
    assert not (tmp_path / "run").exists()


def test_a_supernet_cut_short_goes_on_with_more_time(
    project: Project, machine: ExecutionOptions, tmp_path: Path
) -> None:
    output = search(project.root / "search.yaml", tmp_path / "run", machine, time_seconds=0.001)
    assert "ended early (of 12 steps)" in output
    go_on(tmp_path / "run", machine, trials=4)
    assert {result.supernet_steps for result in results_of(tmp_path / "run")["one_shot"]} == {12}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.yaml", "search: [", "is damaged; expected the file that `search` wrote"),
        ("report.json", "{", "report.json: is damaged"),
        ("default.json", "{}", "default.json: is damaged"),
        ("confirmation.json", "[{}]", "confirmation.json: is damaged"),
        ("time.json", "[]", "time.json: is damaged"),
    ],
)
def test_a_damaged_file_of_a_run_is_named(
    finished: tuple[Path, str], machine: ExecutionOptions, tmp_path: Path, name: str, content: str, message: str
) -> None:
    shutil.copytree(finished[0], tmp_path / "run")
    (tmp_path / "run" / name).write_text(content)
    with pytest.raises(NasError, match=message):
        go_on(tmp_path / "run", machine)


@pytest.mark.parametrize("is_journal", [True, False])
def test_a_run_whose_study_is_gone_is_named_and_not_begun_anew(
    is_journal: bool, project: Project, machine: ExecutionOptions, tmp_path: Path
) -> None:
    run, database = tmp_path / "run", tmp_path / "study.db"
    used = machine if is_journal else replace(machine, storage=f"sqlite:///{database}")
    search(project.root / "search.yaml", run, used, trials=2)
    for path in run.glob("journal.log*") if is_journal else [database]:
        path.unlink()
    for _ in range(2):  # what is found missing once has not come into being by that
        with pytest.raises(StudyError, match=r"what was kept there of this run is gone; put back a copy of it"):
            go_on(run, machine, trials=4)
        with pytest.raises(StudyError, match=r"what was kept there of this run is gone"):
            results_of(run)


def test_a_place_where_no_run_can_be_is_named_before_features_are_built(
    project: Project, machine: ExecutionOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.run.commands.prepare", lambda *arguments, **options: pytest.fail("it has begun"))
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        search(project.root / "search.yaml", tmp_path / "file" / "run", machine)
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(PermissionError, match=re.escape(str(tmp_path))):
        search(project.root / "search.yaml", tmp_path / "new" / "run", machine)


def test_what_was_deleted_of_the_export_is_made_again_without_another_look_at_test(
    finished: tuple[Path, str], machine: ExecutionOptions, tmp_path: Path
) -> None:
    shutil.copytree(finished[0], tmp_path / "run")
    before = (tmp_path / "run" / "best" / "architecture.yaml").read_bytes()
    shutil.rmtree(tmp_path / "run" / "best")
    output = go_on(tmp_path / "run", machine)
    assert "evaluating" not in output
    assert (tmp_path / "run" / "best" / "architecture.yaml").read_bytes() == before


FAMILY_SPACES: dict[str, dict[str, Any]] = {
    "mbt": {"fusion_layer": [0, 1, 2], "bottlenecks": [1, 2, 4]},
    "vpt": {"num_layers": 4, "prompt_layer": [1, 2], "prompts": {"choices": [1, 2], "per": "layer"}},
    "p_bert": {"prompt_layer": [0, 1, 2], "prompts": [1, 4, 8]},
    "blind_prompt": {"prompts": [1, 2, 3, 4, 5, 6, 7, 8]},
    "prompt_fuse": {"prompts": [1, 2, 3, 4, 5, 6, 7, 8]},
    **{family: {} for family in ("mmbt", "image_only", "text_only", "linear", "late_concat")},
}


def test_no_family_is_left_out() -> None:
    assert {*FAMILY_SPACES, "pmf"} == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILY_SPACES)
def test_every_family_is_searched_killed_and_gone_on_with(
    project: Project, machine: ExecutionOptions, tmp_path: Path, family: str
) -> None:
    changes = {"family": family, "space": FAMILY_SPACES[family], "recipe.learning_rates.encoders": 1e-3}
    run, shorter = tmp_path / "run", project.write(f"{family}.yaml", **changes, **{"budget.trials": 5})
    search(shorter, run, machine)
    output = go_on(run, machine, trials=8)
    results = results_of(run)
    space = load_config(shorter).space
    assert len(results["one_shot"]) == min(8, space.size) and results["full"]
    assert all(result.architecture in space for stage in results.values() for result in stage)
    assert len({result.architecture for result in results["one_shot"]}) == len(results["one_shot"])
    assert f"{space.architecture_class.title} default" in output or space.size == 1
    with (run / "results.csv").open() as file:
        columns = csv.DictReader(file).fieldnames
    assert columns is not None and set(space.choices) <= set(columns)
    model = tmp_path / "model"
    assert main(["export", str(run), "--output", str(model)]) == 0
    described = yaml.safe_load((model / "architecture.yaml").read_text())
    assert described["architecture"]["family"] == family
