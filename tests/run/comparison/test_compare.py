"""Comparisons of families on a small project: one grid of learning rates, test at the end, resumable."""

import contextlib
import csv
import io
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nas.cli import main
from nas.common.errors import NasError, StudyError, TrainingError
from nas.common.progress import LineReporter
from nas.common.sealed_json import read_sealed_json, write_sealed_json
from nas.config.load import load_config
from nas.config.overrides import Overrides
from nas.execution.worker import CandidateWorker
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.run.comparison.compare import compare
from nas.run.comparison.entries import SEARCHED, entry_names
from nas.run.comparison.report import spread
from nas.run.directory import open_study, read_study
from nas.run.evaluate import evaluate_exported
from nas.run.executors import ExecutionOptions
from nas.run.reruns import RerunStore
from nas.run.select import best_full
from nas.search.keys import CandidateKey, ComparisonKey
from nas.search.space import Architecture
from nas.search.space.family_registry import FAMILIES
from nas.search.trial import Job, Result
from nas.storage.lease import LockFile
from nas.storage.reader import StudyReader
from nas.storage.study import Study
from tests.support.project import Project

RATES = [1e-3, 1e-2]


@pytest.fixture
def source(project: Project) -> Path:
    return project.write("compared.yaml", **{"compare": {"learning_rates": RATES}, "recipe.epochs": 2})


def compared(
    source: Path, directory: Path, options: ExecutionOptions, names: Sequence[str], seeds: int = 2, **overrides: Any
) -> str:
    stream = io.StringIO()
    compare(
        source,
        directory,
        names=names,
        seeds=seeds,
        overrides=Overrides(**overrides),
        options=options,
        reporter=LineReporter(stream),
    )
    return stream.getvalue()


def rows_of(directory: Path) -> dict[str, dict[str, str]]:
    with (directory / "comparison.csv").open() as file:
        return {row["name"]: row for row in csv.DictReader(file)}


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float | None, int]]:
    """Family, learning rate and seed of every training of a comparison that is run."""
    seen: list[tuple[str, float | None, int]] = []
    run = CandidateWorker.run

    def noted(self: CandidateWorker, job: Job, **options: Any) -> list[Result]:
        if isinstance(job.key, ComparisonKey):
            seen.append((job.architecture.family, job.learning_rate, job.key.seed))
        return run(self, job, **options)

    monkeypatch.setattr(CandidateWorker, "run", noted)
    return seen


def test_entries_are_all_families_and_the_searched_pmf() -> None:
    assert set(entry_names()) == {*FAMILIES, SEARCHED}


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(("mbt", "pmf", SEARCHED), id="three", marks=pytest.mark.slow),  # searches PMF
        pytest.param(entry_names(), id="all", marks=pytest.mark.long),
    ],
)
def test_table_has_every_family_and_the_searched_pmf(
    source: Path,
    options: ExecutionOptions,
    tmp_path: Path,
    ran: list[tuple[str, float | None, int]],
    names: tuple[str, ...],
) -> None:
    directory = tmp_path / "comparison"
    output = compared(source, directory, options, names)
    rows = rows_of(directory)
    assert list(rows) == list(names)
    assert all("at the edge of the grid" in row["remark"] for row in rows.values()), "there are but two learning rates"
    assert len(ran) == len(names) * (len(RATES) + 1), "every learning rate once, and the best with a second seed"
    config = load_config(source)
    for name, row in rows.items():
        kept = RerunStore(directory / name / "trainings.json")
        architectures = {result.architecture for result in kept.results()}
        assert len(architectures) == 1
        (architecture,) = architectures
        first = [kept.get(architecture, ComparisonKey(rate, 0)) for rate in range(len(RATES))]
        scores = [result.score for result in first if result is not None]
        best = scores.index(max(scores))
        assert float(row["learning_rate"]) == RATES[best]
        seeds = [kept.get(architecture, ComparisonKey(best, seed)) for seed in range(2)]
        assert [row[f"validation_accuracy_seed{seed}"] for seed in range(2)] == [
            str(result.score) for result in seeds if result is not None
        ]
        model = directory / name / "model_seed1"
        assert float(row["test_accuracy_seed1"]) == evaluate_exported(model, config.data, "test")[0]["accuracy"]
        left = {path.stem for path in (directory / name / "full").iterdir()}
        assert left == {f"rate_{best}_seed_{seed}" for seed in range(2)}
    found = read_sealed_json(directory / "found.json", Architecture.from_dict, expected="", remedy="")
    assert rows[SEARCHED]["architecture"] == str(found) and isinstance(found, PMFArchitecture)
    assert "PMF, searched" in output and "late_concat" not in output
    assert not (directory / "search" / "report.json").exists(), "the search does not use the test split"
    assert output.rindex(": validation accuracy") < output.index("evaluating the exported"), "test is for the end"
    text = (directory / "comparison.txt").read_text()
    assert text in output and all(
        line in text for line in ("extend compare.learning_rates upwards", "over 2 seeds. The")
    )
    metrics = evaluate_exported(directory / "mbt" / "model_seed0", config.data, "test")[0]
    assert {name: float(rows["mbt"][f"test_{name}_seed0"]) for name in metrics} == metrics, "all of them"
    markdown = (directory / "comparison.md").read_text()
    assert "extend compare.learning_rates upwards" in markdown
    assert markdown.startswith("| ") and markdown.count("\n| ") == len(names) and "\n| MBT " in markdown
    assert (directory / "comparison.svg").read_text().count("PMF") >= 1
    ran.clear()
    few = [names[0], SEARCHED]
    again = compared(source, directory, options, few)
    assert not ran and rows_of(directory) == {name: rows[name] for name in few}
    assert again.endswith(output[output.index("Written: ") :])


def test_interrupted_comparison_resumes_without_repeating_a_training(
    source: Path, options: ExecutionOptions, tmp_path: Path, ran: list[tuple[str, float | None, int]], monkeypatch: Any
) -> None:
    expected = tmp_path / "undisturbed"
    compared(source, expected, options, ["linear", "vpt"])
    undisturbed = len(ran)
    ran.clear()
    taken = RerunStore.add

    def failing(self: RerunStore, result: Result) -> None:
        taken(self, result)
        if len(ran) == 2:
            raise OSError(28, "No space left on device")

    directory = tmp_path / "interrupted"
    with monkeypatch.context() as patched:
        patched.setattr(RerunStore, "add", failing)
        with pytest.raises(OSError, match="No space left"):
            compared(source, directory, options, ["linear", "vpt"])
    compared(source, directory, options, ["linear", "vpt"])
    assert len(ran) == undisturbed
    seconds = {"seconds", "measured_peak_bytes"}
    first, second = (
        [{key: value for key, value in row.items() if key not in seconds} for row in rows_of(place).values()]
        for place in (expected, directory)
    )
    assert first == second


@pytest.mark.long
def test_family_that_does_not_fit_is_not_trained(
    source: Path, options: ExecutionOptions, tmp_path: Path, ran: list[tuple[str, float | None, int]]
) -> None:
    """Fine-tuning needs more memory than a linear classifier."""
    directory = tmp_path / "comparison"
    compared(source, directory, options, ["linear", "late_concat"], seeds=1)
    bytes_of = {name: int(row["training_bytes"]) for name, row in rows_of(directory).items()}
    assert bytes_of["late_concat"] > bytes_of["linear"]
    budget = 500 * 2**20 + 2**20 + (bytes_of["late_concat"] + bytes_of["linear"]) // 2
    ran.clear()
    output = compared(source, tmp_path / "small", options, ["linear", "late_concat"], seeds=1, memory_bytes=budget)
    assert {family for family, _, _ in ran} == {"linear"}
    row = rows_of(tmp_path / "small")["late_concat"]
    assert "the memory budget is" in row["remark"] and row["test_accuracy_seed0"] == ""
    assert "LateConcat: needs" in output and "the memory budget is" in (tmp_path / "small/comparison.md").read_text()
    ran.clear()
    before = rows_of(directory)
    compared(source, directory, options, ["linear", "late_concat"], seeds=1, memory_bytes=budget)
    assert not ran and rows_of(directory) == before, "it was trained when there was more memory"


@pytest.mark.long
def test_trainings_stay_in_the_table_with_less_memory(
    source: Path, options: ExecutionOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, names = tmp_path / "comparison", ["late_concat"]
    taken = RerunStore.add

    def failing(self: RerunStore, result: Result) -> None:
        if isinstance(result.key, ComparisonKey) and result.key.seed:
            raise OSError(28, "No space left on device")
        taken(self, result)

    with monkeypatch.context() as patched:
        patched.setattr(RerunStore, "add", failing)
        with pytest.raises(OSError, match="No space left"):
            compared(source, directory, options, names)
    output = compared(source, directory, options, names, memory_bytes=501 * 2**20)
    row = rows_of(directory)["late_concat"]
    assert "missing trainings are skipped" in output and "the memory budget is" in row["remark"]
    assert row["learning_rate"] and row["test_accuracy_seed0"] and not row["test_accuracy_seed1"]
    compared(source, directory, options, names)
    assert rows_of(directory)["late_concat"]["test_accuracy_seed1"]
    assert "the memory budget is" not in rows_of(directory)["late_concat"]["remark"]


@pytest.mark.long
def test_oversized_family_is_trained_in_micro_batches_where_allowed(
    project: Project, options: ExecutionOptions, tmp_path: Path
) -> None:
    source = project.write(
        "parts.yaml",
        **{"compare": {"learning_rates": RATES}, "recipe.epochs": 1, "budget.oversized": "accumulate"},
    )
    directory, names = tmp_path / "comparison", ["mmbt"]
    compared(source, directory, options, names, seeds=1)
    whole = rows_of(directory)["mmbt"]
    budget = 501 * 2**20 + int(whole["training_bytes"]) * 9 // 10
    compared(source, tmp_path / "small", options, names, seeds=1, memory_bytes=budget)
    parts = rows_of(tmp_path / "small")["mmbt"]
    assert "micro-batches" in parts["remark"] and int(parts["training_bytes"]) < int(whole["training_bytes"])
    assert float(parts["validation_cross_entropy_seed0"]) == pytest.approx(
        float(whole["validation_cross_entropy_seed0"]), rel=1e-3
    ), "gradients are the same"
    compared(source, tmp_path / "small", options, names, seeds=1)
    assert rows_of(tmp_path / "small")["mmbt"] == parts, "with more memory it is what it was"


def test_learning_rate_that_diverges_is_not_chosen(project: Project, options: ExecutionOptions, tmp_path: Path) -> None:
    wild = {"recipe.clip_norm": None, "recipe.weight_decay": 1000.0}  # a rate above 0.002 multiplies weights every step
    rates = [1e-3, 700.0, 800.0, 900.0, 1000.0]
    source = project.write("wild.yaml", **{"compare": {"learning_rates": rates}, **wild})
    output = compared(source, tmp_path / "comparison", options, ["vpt"], seeds=1)
    row = rows_of(tmp_path / "comparison")["vpt"]
    assert (
        float(row["learning_rate"]) == 1e-3
        and "at the edge of the grid: extend compare.learning_rates downwards" in row["remark"]
    )
    assert row["remark"].count("the loss is") == output.count("failed: TrainingError") >= 2
    assert "is the best of 3 on validation" in output, "900 cannot be better where 700 and 800 failed"
    assert (
        "TrainingError" not in compared(source, tmp_path / "comparison", options, ["vpt"], seeds=1).partition("\n\n")[0]
    )


def test_failed_seeds_are_recorded_and_the_others_counted(
    project: Project,
    options: ExecutionOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ran: list[tuple[str, float | None, int]],
) -> None:
    source = project.write("single.yaml", **{"compare": {"learning_rates": [1e-2]}, "recipe.epochs": 1})
    run = CandidateWorker.run

    def failing(self: CandidateWorker, job: Job, **options: Any) -> list[Result]:
        results = run(self, job, **options)
        if job.key != ComparisonKey(0, 0):
            raise TrainingError("the loss is no number")
        return results

    monkeypatch.setattr(CandidateWorker, "run", failing)
    for expected in (4, 4):
        compared(source, tmp_path / "comparison", options, ["linear"], seeds=4)
        assert len(ran) == expected, "what has failed is not tried again"
    row = rows_of(tmp_path / "comparison")["linear"]
    assert row["remark"].count("the loss is no number") == 3 and row["test_accuracy_seed1"] == ""
    assert "(1 of 4 seeds)" in (tmp_path / "comparison/comparison.md").read_text()


def test_scores_of_other_settings_are_not_mixed(
    project: Project, source: Path, options: ExecutionOptions, tmp_path: Path
) -> None:
    compared(source, tmp_path / "comparison", options, ["linear"], seeds=1)
    other = project.write("other.yaml", **{"compare": {"learning_rates": RATES}, "recipe.epochs": 3})
    with pytest.raises(StudyError, match=r"holds another comparison:\n  - recipe.epochs: 2 → 3"):
        compared(other, tmp_path / "comparison", options, ["linear"], seeds=1)
    with pytest.raises(StudyError, match="learning_rates"):
        compared(
            project.write("rates.yaml", **{"compare": {"learning_rates": [1e-2]}, "recipe.epochs": 2}),
            tmp_path / "comparison",
            options,
            ["linear"],
            seeds=1,
        )
    vpt = project.write("vpt.yaml", family="vpt", space={"prompt_layer": [0], "prompts": [1, 2]})
    with pytest.raises(NasError, match="family: not supported by compare; expected pmf, got vpt"):
        compared(vpt, tmp_path / "vpt", options, ["linear"])


def test_command_writes_the_table(
    source: Path, options: ExecutionOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "comparison"
    arguments = ["compare", str(source), "--families", "p_bert", "linear", "--seeds", "1", "--run-dir", str(directory)]
    assert main([*arguments, "--workers", "0", "--cache-dir", str(options.cache)]) == 0
    assert list(rows_of(directory)) == ["p_bert", "linear"]
    shown = capsys.readouterr().out
    assert "P-BERT" in shown and f"{directory}/comparison.md" in shown


@pytest.mark.long
def test_scores_of_other_data_are_not_mixed(
    project: Project, source: Path, options: ExecutionOptions, tmp_path: Path
) -> None:
    directory, manifest = tmp_path / "comparison", project.root / "manifest.csv"
    compared(source, directory, options, ["linear"], seeds=1)
    before = manifest.read_text()
    try:
        manifest.write_text(before.replace("train", "validation", 1))
        with pytest.raises(StudyError, match="its data or encoders have changed since it was started"):
            compared(source, directory, options, ["linear"], seeds=1)
        lines = before.splitlines()
        place = next(index for index, line in enumerate(lines) if line.endswith("test"))
        manifest.write_text("\n".join([*lines[:place], *lines[place + 1 :]]) + "\n")
        assert "evaluating the exported" in compared(source, directory, options, ["linear"], seeds=1)
    finally:
        manifest.write_text(before)
    assert "evaluating the exported" not in compared(source, directory, options, ["linear"], seeds=1)
    image = project.images / lines[place].split(",")[0]
    picture = image.read_bytes()
    os.utime(image)
    assert "evaluating the exported" not in compared(source, directory, options, ["linear"], seeds=1)
    try:
        Image.new("RGB", (20, 20), (1, 2, 3)).save(image)
        assert "evaluating the exported" in compared(source, directory, options, ["linear"], seeds=1)
    finally:
        image.write_bytes(picture)
    (directory / "linear" / "trainings.json").unlink()  # as its message says where it is damaged
    again = compared(source, directory, options, ["linear"], seeds=1)
    assert again.count(": validation accuracy") == len(RATES) and "evaluating the exported" in again


def test_failed_first_attempt_leaves_nothing_behind(
    project: Project, source: Path, options: ExecutionOptions, tmp_path: Path
) -> None:
    directory = tmp_path / "comparison"
    with pytest.raises(NasError, match="nowhere"):
        compared(project.write("wrong.yaml", **{"encoders.image": "./nowhere"}), directory, options, ["linear"])
    compared(source, directory, options, ["linear"], seeds=1)
    with pytest.raises(StudyError, match="is not empty and holds no comparison"):
        compared(source, directory.parent, options, ["linear"])
    (directory / "linear" / "tests.json").write_text("{")
    with pytest.raises(StudyError, match=r"tests.json: is damaged.*delete it"):
        compared(source, directory, options, ["linear"], seeds=1)
    (directory / "comparison.json").write_text("{")
    with pytest.raises(StudyError, match=r"comparison.json: is damaged: .*; compare in a new directory"):
        compared(source, directory, options, ["linear"], seeds=1)


def test_comparison_killed_at_its_start_can_be_started_again(
    source: Path, options: ExecutionOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "comparison"
    with monkeypatch.context() as patched:
        patched.setattr("nas.run.comparison.compare.check_facts", lambda entry: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            compared(source, directory, options, ["linear"], seeds=1)
    assert (directory / "linear").is_dir() and (directory / "comparison.json").exists()
    (directory / "comparison.json").rename(directory / ".comparison.json.0123456789abcdef")  # killed in the writing
    (directory / "linear").rmdir()
    compared(source, directory, options, ["linear"], seeds=1)
    assert list(rows_of(directory)) == ["linear"]


def test_error_in_the_search_space_is_reported_before_any_training(
    project: Project, options: ExecutionOptions, tmp_path: Path, ran: list[tuple[str, float | None, int]]
) -> None:
    wrong = project.write("deep.yaml", **{"space.fusion_layer": [0, 1, 40]})
    with pytest.raises(NasError, match=r"deep\.yaml: 1 problem.*\n.*space\.fusion_layer: too large; .*got 40"):
        compared(wrong, tmp_path / "comparison", options, ["linear", "pmf"])
    assert not ran


@pytest.mark.long
def test_searched_entry_resumes_its_stopped_search(
    source: Path, options: ExecutionOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "comparison"
    run = CandidateWorker.run

    def stopping(self: CandidateWorker, job: Job, **options: Any) -> list[Result]:
        if job.key == CandidateKey(4):
            raise KeyboardInterrupt
        return run(self, job, **options)

    with monkeypatch.context() as patched:
        patched.setattr(CandidateWorker, "run", stopping)
        with pytest.raises(KeyboardInterrupt):
            compared(source, directory, options, [SEARCHED], seeds=1)
    assert not (directory / "comparison.json").exists()
    other = source.with_name("other.yaml")
    other.write_text(source.read_text().replace("epochs: 2", "epochs: 3"))
    with pytest.raises(StudyError, match=r"holds another comparison:\n  - recipe\.epochs: 2 → 3"):
        compared(other, directory, options, [SEARCHED], seeds=1)
    assert "requeued" in compared(source, directory, options, [SEARCHED], seeds=1)
    assert list(rows_of(directory)) == [SEARCHED]


@pytest.mark.long
def test_search_resumes_with_another_budget_until_its_result_is_trained(
    project: Project, options: ExecutionOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "comparison"
    answers: list[PMFArchitecture] = []
    original = best_full

    def found(run: Path, storage: str | None) -> Result | None:
        result = original(run, storage)
        assert result is not None and isinstance(result.architecture, PMFArchitecture)
        answers.append(replace(result.architecture, query_prompts=1 + len(answers)))  # another one every time
        return replace(result, architecture=answers[-1])

    monkeypatch.setattr("nas.run.comparison.searched.best_full", found)

    def scored(trials: int) -> str:
        changes = {"compare": {"learning_rates": RATES}, "recipe.epochs": 1, "budget.trials": trials}
        output = compared(project.write("budget.yaml", **changes), directory, options, [SEARCHED], seeds=1)
        return next((line for line in output.splitlines() if line.startswith("Search: ")), output)

    with monkeypatch.context() as patched:
        patched.setattr("nas.run.comparison.training.EntryTrainer.train", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            scored(3)
    (directory / SEARCHED / "failures.json").write_text("{")  # of the first answer
    assert scored(6).startswith("Search: 6 screened")
    assert rows_of(directory)[SEARCHED]["architecture"] == str(answers[1])
    assert "The search keeps its budget" in scored(9)
    assert "Search: " not in scored(9) and len(answers) == 2


@pytest.mark.long
def test_search_result_is_read_from_the_given_database(
    source: Path, options: ExecutionOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The URL with the password, which is not recorded."""
    opened: list[str | None] = []

    def noted(*arguments: Any, storage: str | None = None, **options: Any) -> Study:
        opened.append(storage)
        return open_study(*arguments, storage=storage, **options)

    def noted_reader(*arguments: Any, storage: str | None = None, **options: Any) -> StudyReader:
        opened.append(storage)
        return read_study(*arguments, storage=storage, **options)

    monkeypatch.setattr("nas.run.session.open_study", noted)
    monkeypatch.setattr("nas.run.select.read_study", noted_reader)
    url = f"sqlite:///{tmp_path}/study.db"
    compared(source, tmp_path / "comparison", replace(options, storage=url), [SEARCHED], seeds=1, trials=2)
    assert len(opened) >= 2 and set(opened) == {url}


@pytest.mark.long
def test_training_that_ran_out_of_memory_is_repeated_with_more_and_other_failures_are_not(
    source: Path, options: ExecutionOptions, tmp_path: Path, ran: list[tuple[str, float | None, int]]
) -> None:
    directory = tmp_path / "comparison"
    compared(source, directory, options, ["linear"], seeds=1)
    trials = {
        ComparisonKey(index, 0).name: f"learning rate {rate:g}, seed 0: too much" for index, rate in enumerate(RATES)
    }
    (directory / "linear" / "trainings.json").unlink()
    for kind, memory, budget, expected in (
        ("error", 2**32, 2**33, 0),
        ("memory", 2**32, 2**32, 0),
        ("memory", 2**32, 2**33, 2),
    ):
        entries = {key: {"text": said, "kind": kind, "memory_bytes": memory} for key, said in trials.items()}
        write_sealed_json(directory / "linear" / "failures.json", entries)
        ran.clear()
        compared(source, directory, options, ["linear"], seeds=1, memory_bytes=budget)
        assert len(ran) == expected
        assert ("too much" in rows_of(directory)["linear"]["remark"]) == (expected == 0)
    compared(source, directory, options, ["linear"], seeds=1, memory_bytes=2**32)
    assert "too much" not in rows_of(directory)["linear"]["remark"], "they have a result since"
    (directory / "linear" / "failures.json").write_text('{"0": "too much"}')
    with pytest.raises(StudyError, match=r"failures\.json: is damaged"):
        compared(source, directory, options, ["linear"], seeds=1)


def test_comparison_has_one_driver_at_a_time(
    source: Path, options: ExecutionOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "comparison"
    directory.mkdir()
    with contextlib.closing(LockFile(directory / "driver.lock")), pytest.raises(StudyError, match=str(directory)):
        compared(source, directory, options, ["linear"])
    # A second comparison at the same time.
    monkeypatch.setattr(
        "nas.run.comparison.compare.prepare_entry", lambda *arguments: compared(source, directory, options, ["vpt"])
    )
    with pytest.raises(StudyError, match=f"process {os.getpid()}"):
        compared(source, directory, options, ["linear"])


def test_unknown_family_is_one_error(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(source), "--families", "linear", "pfm"]) == 2
    assert "--families pfm: expected any of image_only" in capsys.readouterr().err


def test_spread_is_the_standard_deviation_of_a_sample() -> None:
    assert spread([0.5, 0.6, 0.7]) == "0.600 ± 0.100" and spread([0.5]) == "0.500" and spread([]) == "–"
    assert spread([0.5, None, 0.7]) == "0.600 ± 0.141 (2 of 3 seeds)" and spread([None]) == "–"
