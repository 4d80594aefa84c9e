"""Run directories: starting a run, resuming it, and refused directories."""

import csv
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from nas.cli import main
from nas.common.errors import BudgetError, DataError, NasError, StudyError, TrainingError
from nas.config.load import load_config
from nas.execution.worker import CandidateWorker
from nas.run.executors import ExecutionOptions
from nas.run.finalize import REPORT, read_report
from nas.run.roles import BEST
from nas.run.select import best_architectures, best_full
from nas.search.keys import DefaultKey
from nas.search.space.family_registry import FAMILIES, load_architecture_class
from nas.search.trial import Job, Result
from tests.run.conftest import FinishedRun
from tests.support.project import Project
from tests.support.real_driver import finished_models
from tests.support.runs import counts_of, results_of, resume_search, run_search


def test_every_line_of_output_is_one_event(finished: FinishedRun) -> None:
    assert "\r" not in finished.output and "\x1b" not in finished.output
    models = finished_models(finished.output)
    assert Counter(stage for _, stage, _ in models) == {"one_shot": 8, "short": 4, "full": 2 + 1}
    line = re.compile(
        r"^#\d+ screened: accuracy 0\.\d{3}, loss \d\.\d{3} \(fusion from layer \d, prompts \d/\d/\d, width \d\)$"
    )
    assert sum(line.match(text) is not None for text in finished.output.splitlines()) == 8
    assert "1 worker(s) on 1 device(s). Each training needs" in finished.output


def test_first_line_names_the_run_directory_and_how_to_resume(finished: FinishedRun) -> None:
    first = finished.output.splitlines()[0]
    assert first.startswith(f"Run directory: {finished.directory}. ")
    assert first.endswith(f"resume it with: python run_search.py resume {finished.directory}")


def test_finished_search_has_nothing_left_to_run(copy: Path, options: ExecutionOptions) -> None:
    before = (results_of(copy), (copy / REPORT).read_text())
    output = resume_search(copy, options)
    assert finished_models(output) == [] and "evaluating" not in output
    assert (results_of(copy), (copy / REPORT).read_text()) == before


@pytest.mark.long
def test_study_in_a_database_is_the_same_and_is_found_again(
    project: Project,
    finished: FinishedRun,
    options: ExecutionOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "before" / "studies").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "before")
    named = replace(options, storage="sqlite:///studies/study.db")
    run_search(project.root / "search.yaml", tmp_path / "before" / "run", named, trials=4)
    monkeypatch.chdir(project.root)
    (tmp_path / "before").rename(tmp_path / "after")  # a relative path is kept relative to the run
    run, database = tmp_path / "after" / "run", tmp_path / "after" / "studies" / "study.db"
    resume_search(run, options, trials=8)
    assert not (tmp_path / "before").exists()
    scored = [(entry.trial, entry.architecture, entry.score) for entry in results_of(run)["one_shot"]]
    assert scored == [
        (entry.trial, entry.architecture, entry.score) for entry in results_of(finished.directory)["one_shot"]
    ]
    with pytest.raises(StudyError, match=r"--storage sqlite:///other\.db: the stored study of this run is missing"):
        resume_search(run, replace(options, storage="sqlite:///other.db"))
    assert not (project.root / "other.db").exists()
    database.rename(tmp_path / "moved.db")
    check_study_is_missed(run, options)
    moved = f"sqlite:///{tmp_path / 'moved.db'}"
    assert main(["export", str(run), "--output", str(tmp_path / "model"), "--storage", moved]) == 0
    assert not database.exists()
    assert finished_models(resume_search(run, replace(options, storage=moved))) == []
    assert finished_models(resume_search(run, options)) == [], "the new place is recorded"
    assert counts_of(run)[0] == 8 and not database.exists()


def check_study_is_missed(run: Path, options: ExecutionOptions) -> None:
    for _ in range(2):  # the first attempt must not create what it misses
        with pytest.raises(StudyError, match=r"the stored study of this run is missing; .* restore a copy of it"):
            resume_search(run, options, trials=9)
        with pytest.raises(StudyError, match="the stored study of this run is missing"):
            results_of(run)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.yaml", "search: [", "is not valid YAML: .*; expected the file that `search` wrote"),
        ("config.yaml", "search: !!python/name:os.getcwd", "tag .*; expected the file that `search` wrote"),
        ("config.yaml", "- 1", "is damaged: .*; expected the file that `search` wrote"),
        ("report.json", "{", "report.json: is damaged"),
        ("default.json", "{}", "default.json: is damaged"),
        ("linear.json", "{}", "linear.json: is damaged"),
        ("reruns.json", "[{}]", "reruns.json: is damaged"),
        ("time.json", "[]", "time.json: is damaged"),
    ],
)
def test_damaged_file_of_a_run_is_named(
    copy: Path, options: ExecutionOptions, name: str, content: str, message: str
) -> None:
    (copy / name).write_text(content)
    with pytest.raises(NasError, match=message):
        resume_search(copy, options)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("storage", 3, "storage: expected the URL of a database or null, got 3"),
        ("storage", "nowhere", "storage: not the URL of a database; expected for example .*, got nowhere"),
        ("class_names", ["red", 3], r"class_names: expected a list of names, got \['red', 3\]"),
    ],
)
def test_value_of_another_kind_in_the_description_of_a_run_is_named(
    copy: Path, options: ExecutionOptions, key: str, value: object, message: str
) -> None:
    path = copy / "config.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), key: value}))
    with pytest.raises(NasError, match=message):
        resume_search(copy, options)


@pytest.mark.parametrize("version", [None, 2, 99])
def test_run_directory_of_another_format_is_one_error(
    copy: Path, options: ExecutionOptions, version: int | None
) -> None:
    path = copy / "config.yaml"
    values = yaml.safe_load(path.read_text())
    values["format_version"] = version
    if version is None:  # as before formats were counted
        del values["format_version"]
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(StudyError, match=rf"config\.yaml: run directory of format {version or 1}; expected format 3"):
        resume_search(copy, options)


def test_directory_with_other_files_is_not_overwritten(
    project: Project, options: ExecutionOptions, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(StudyError, match="is not empty"):
        run_search(project.root / "search.yaml", tmp_path, options)
    with pytest.raises(StudyError, match="holds no run"):
        resume_search(tmp_path / "none", options)


def test_unusable_directory_is_reported_before_features_are_built(
    project: Project, options: ExecutionOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.run.session.prepare", lambda *arguments, **named: pytest.fail("features are built"))
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        run_search(project.root / "search.yaml", tmp_path / "file" / "run", options)
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(PermissionError, match=re.escape(str(tmp_path))):
        run_search(project.root / "search.yaml", tmp_path / "new" / "run", options)


def test_same_search_resumes_in_its_directory_and_another_is_refused_key_by_key(
    project: Project, copy: Path, options: ExecutionOptions
) -> None:
    output = run_search(project.root / "search.yaml", copy, options, trials=9)
    assert "holds this search; resuming it" in output and "Search: 9 screened" in output
    other = project.write("other.yaml", **{"space.query_prompts": [1, 2, 4], "recipe.epochs": 5})
    with pytest.raises(StudyError) as refused:
        run_search(other, copy, options)
    assert "recipe.epochs" in str(refused.value) and "space.query_prompts" in str(refused.value)
    assert "new directory (--run-dir)" in str(refused.value)
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace("epochs: 2", "epochs: 6"))
    with pytest.raises(StudyError, match=r"recipe\.epochs"):
        resume_search(copy, options)


def test_default_that_cannot_be_trained_does_not_prevent_the_result(
    copy: Path, options: ExecutionOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copy / "default.json").unlink()
    run = CandidateWorker.run

    def fail_default(worker: CandidateWorker, job: Job, **rest: Any) -> list[Result]:
        if isinstance(job.key, DefaultKey):
            raise TrainingError("diverged")
        return run(worker, job, **rest)

    monkeypatch.setattr(CandidateWorker, "run", fail_default)
    output = resume_search(copy, options)
    assert "default full training failed: TrainingError: diverged" in output
    assert f"Exported model: {copy / BEST}" in output


def test_changed_test_split_is_evaluated_again_and_changed_training_data_is_refused(
    own_project: Project, options: ExecutionOptions, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run_search(own_project.root / "search.yaml", run, options, trials=2)
    before = read_report(run)
    assert "evaluating" not in resume_search(run, options)
    lines = own_project.manifest.read_text().splitlines()
    place = next(place for place, line in enumerate(lines) if line.endswith(",test"))
    own_project.manifest.write_text("\n".join([*lines[:place], *lines[place + 1 :]]) + "\n")
    output, after = resume_search(run, options), read_report(run)
    models = {json.dumps(entry["result"]) for entry in after.values()}
    assert output.count("evaluating the exported and reloaded model on the test split") == len(models), "each once"
    assert {after[role]["test_samples"] for role in after} == {before[BEST]["test_samples"] - 1}

    own_project.manifest.write_text(own_project.manifest.read_text().replace("apple", "cat", 1))
    with pytest.raises(StudyError, match="its data or encoders have changed since it was started"):
        resume_search(run, options, trials=4)


def test_missing_test_split_is_reported_before_the_search(
    own_project: Project, options: ExecutionOptions, tmp_path: Path
) -> None:
    own_project.manifest.write_text(own_project.manifest.read_text().replace(",test", ",train"))
    with pytest.raises(DataError, match=r"the test split is empty; .* set data\.held_out\.test"):
        run_search(own_project.root / "search.yaml", tmp_path / "run", options)
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_time_budget_that_holds_no_training_is_refused_and_more_time_continues_the_search(
    project: Project, options: ExecutionOptions, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(BudgetError, match=r"time budget 0\.001s: holds no full training of the PMF default") as caught:
        run_search(project.root / "search.yaml", run, options, time_seconds=0.001)
    assert not (run / "supernet.safetensors").exists() and not (run / "linear.json").exists()
    assert re.search(rf"expected at least \d+s: .* resume {run} --budget \d+s$", str(caught.value))
    output = resume_search(run, options, time_seconds=600.0, trials=8)
    assert "Phase: measuring the speed" not in output, "it is known"
    plan, *left_out = [line for line in output.splitlines() if line.startswith(("Plan: ", "Left out: "))]
    assert re.match(r"Plan: supernet \S+ → screening \S+ → short training \S+ → full training \S+; ", plan)
    assert left_out == [
        "Left out: recipe: budget.recipe_fraction is 0, the recipe is used as it is",
        "Left out: race: search.rerun_seeds is 0",
    ]
    assert counts_of(run) == [8, 4, 2]
    assert {result.supernet_steps for result in results_of(run)["one_shot"]} == {12}


def test_constraint_that_no_full_training_meets_is_reported(
    project: Project, options: ExecutionOptions, tmp_path: Path
) -> None:
    changes = {"search.constraints": ["accuracy >= 1.01"], "search.proxy_metric": "cross_entropy"}
    run = tmp_path / "run"
    with pytest.raises(StudyError, match=r"none of the 2 completely trained candidates meets accuracy >= 1\.01"):
        run_search(project.write("constrained.yaml", **changes), run, options)
    assert best_full(run) is None
    results = results_of(run)
    for result in results["one_shot"] + results["short"]:
        assert result.score == -result.metrics["cross_entropy"]
    assert all(result.score == result.metrics["accuracy"] for result in results["full"])
    ranked = sorted(results["short"], key=lambda result: result.metrics["cross_entropy"])
    assert {result.trial for result in results["full"]} == {result.trial for result in ranked[:2]}


@pytest.mark.long
def test_warm_start_screens_the_best_of_an_earlier_run_first(
    project: Project, finished: FinishedRun, options: ExecutionOptions, tmp_path: Path
) -> None:
    earlier = results_of(finished.directory)
    best = [
        max(earlier[stage], key=lambda result: (result.score, -result.trial)).architecture
        for stage in ("full", "short", "one_shot")
    ]
    source, run = project.write("warm.yaml", **{"search.strategy": "random", "recipe.epochs": 1}), tmp_path / "run"
    space = load_config(source).space
    assert best_architectures(finished.directory, space) == list(dict.fromkeys(best))
    run_search(source, run, options, warm_start=finished.directory, seed=5, trials=5)
    scored = [result.architecture for result in results_of(run)["one_shot"]]
    expected = list(dict.fromkeys([space.smallest, space.largest, *best]))
    assert scored[: len(expected)] == expected[:5]
    assert finished_models(resume_search(run, options)) == [], "the run records its initial architectures"
    other = load_config(project.write("elsewhere.yaml", **{"space.mapping_width": [5, 6]})).space
    with pytest.raises(
        StudyError, match=r"--warm-start .*: this search space contains none of the run's best architectures"
    ):
        best_architectures(finished.directory, other)


FAMILY_SPACES: dict[str, dict[str, Any]] = {
    "mbt": {"fusion_layer": [0, 1, 2], "bottlenecks": [1, 2, 4]},
    "vpt": {"num_layers": 4, "prompt_layer": [1, 2], "prompts": {"choices": [1, 2], "per": "layer"}},
    "p_bert": {"prompt_layer": [0, 1, 2], "prompts": [1, 4, 8]},
    "bilinear": {"components": [1, 2, 4], "image_readout": ["pooled", "mean"]},
    "blind_prompt": {"prompts": [1, 2, 3, 4, 5, 6, 7, 8]},
    "prompt_fuse": {"prompts": [1, 2, 3, 4, 5, 6, 7, 8]},
    "coop": {"prompt_length": [1, 2, 5], "initial_text": ["template", "random"], "sample_text": ["none", "sum"]},
    "clip_zero_shot": {"sample_text": ["none", "sum"]},
    "vpt_clip": {"prompt_depth": [1, 2, 3], "prompt_length": [1, 2, 5], "sample_text": ["none", "sum"]},
    "maple": {
        "prompt_depth": [1, 2],
        "prompt_length": [1, 2, 5],
        "branches": ["coupled", "language", "vision"],
        "coupling": ["per_layer", "shared"],
        "initial_text": ["template", "random"],
    },
    "albef": {"fusion_layer": [0, 1, 2]},
    "vlmo": {"modality_layers": [0, 1, 3]},
    "vse": {"joint_width": [1, 2, 4, 8]},
    "vilbert": {"coattention_layer": [0, 1, 2], "coattentions": [1, 2, 3]},
    "uniter": {"fusion_layer": [0, 1, 2]},
    "vilt": {"depth": [1, 2, 3, 4]},
    **{family: {} for family in ("mmbt", "image_only", "text_only", "linear", "late_concat")},
}


def test_all_families_are_searched() -> None:
    assert {*FAMILY_SPACES, "pmf"} == set(FAMILIES)


LIKE_OTHERS = {
    *("blind_prompt", "vpt", "mmbt", "image_only", "bilinear"),
    *("p_bert", "prompt_fuse", "text_only", "late_concat", "coop", "clip_zero_shot", "vpt_clip"),
    *("albef", "vlmo", "vse", "vilbert", "vilt", "uniter"),
}
"""Families that differ from another one only in their models, which other tests compare with references.

Learned words are searched in `test_class_texts.py`."""


@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=[pytest.mark.long] if name in LIKE_OTHERS else []) for name in FAMILY_SPACES],
)
def test_every_family_is_searched_resumed_and_exported(
    project: Project, options: ExecutionOptions, tmp_path: Path, family: str
) -> None:
    changes: dict[str, object] = {"family": family, "space": FAMILY_SPACES[family], "search.readouts": "searched"}
    changes["recipe.learning_rates.encoders"] = 1e-3
    if load_architecture_class(family).reads_class_texts:
        changes |= {"encoders.image": "./clip", "encoders.text": "./clip"}
    run, source = tmp_path / "run", project.write(f"{family}.yaml", **changes, **{"budget.trials": 5})
    run_search(source, run, options)
    output = resume_search(run, options, trials=8)
    results, space = results_of(run), load_config(source).space
    assert len(results["one_shot"]) == min(8, space.size) and results["full"]
    assert all(result.architecture in space for stage in results.values() for result in stage)
    assert len({result.architecture for result in results["one_shot"]}) == len(results["one_shot"])
    assert f"{space.architecture_class.title} default" in output or space.size == 1
    with (run / "results.csv").open() as file:
        columns = csv.DictReader(file).fieldnames
    assert columns is not None and set(space.choices) <= set(columns)
    model = tmp_path / "model"
    assert main(["export", str(run), "--output", str(model), "--pick", "best"]) == 0
    described = yaml.safe_load((model / "architecture.yaml").read_text())
    assert described["architecture"]["family"] == family


def test_resumed_search_begins_with_what_is_used_and_ends_with_what_it_would_take_to_go_on(
    copy: Path, options: ExecutionOptions
) -> None:
    lines = resume_search(copy, options).splitlines()
    assert re.fullmatch(rf"Run directory: {copy}\. Resuming its search: \d+s used of a budget of 8 trials", lines[0]), (
        lines[0]
    )
    assert lines[-1] == (
        f"Nothing was left to do within 8 trials. To search longer: python run_search.py resume {copy} --budget 16"
    )
