"""The comparison of families on a little project: one learning rate grid, the test split at the end, resumable."""

import contextlib
import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nas.cli import main
from nas.common.errors import NasError, StudyError, TrainingError
from nas.common.progress import LineReporter
from nas.config.load import load_config
from nas.execution.worker import CandidateWorker
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.run.commands import Overrides
from nas.run.comparison.compare import ENTRIES, SEARCHED, compare
from nas.run.comparison.report import spread
from nas.run.directory import open_study
from nas.run.evaluate import evaluate_exported
from nas.run.executors import ExecutionOptions
from nas.run.reruns import RerunStore
from nas.run.select import best_full
from nas.search.keys import CandidateKey, ComparisonKey
from nas.search.space import Architecture
from nas.search.space.families import FAMILIES
from nas.search.trial import Job, Result
from nas.storage.lease import LockFile
from nas.storage.study import Study
from tests.support.project import Project

RATES = [1e-3, 1e-2]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> ExecutionOptions:
    return ExecutionOptions(worker_count=0, cache_directory=tmp_path_factory.mktemp("cache"))


@pytest.fixture
def source(project: Project) -> Path:
    return project.write("compared.yaml", **{"compare": {"learning_rates": RATES}, "recipe.epochs": 2})


def compared(
    source: Path, directory: Path, machine: ExecutionOptions, names: Sequence[str], seeds: int = 2, **overrides: Any
) -> str:
    stream = io.StringIO()
    compare(
        source,
        directory,
        names=names,
        seeds=seeds,
        overrides=Overrides(**overrides),
        machine=machine,
        reporter=LineReporter(stream),
    )
    return stream.getvalue()


def rows_of(directory: Path) -> dict[str, dict[str, str]]:
    with (directory / "comparison.csv").open() as file:
        return {row["name"]: row for row in csv.DictReader(file)}


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float | None, int]]:
    """Family, learning rate and seed's number of every job that is run."""
    seen: list[tuple[str, float | None, int]] = []
    run = CandidateWorker.run

    def noted(self: CandidateWorker, job: Job, **options: Any) -> list[Result]:
        if isinstance(job.key, ComparisonKey):
            seen.append((job.architecture.family, job.learning_rate, job.key.seed))
        return run(self, job, **options)

    monkeypatch.setattr(CandidateWorker, "run", noted)
    return seen


def test_all_families_and_the_searched_pmf_are_in_the_table(
    source: Path, machine: ExecutionOptions, tmp_path: Path, ran: list[tuple[str, float | None, int]]
) -> None:
    directory = tmp_path / "comparison"
    output = compared(source, directory, machine, ENTRIES)
    assert set(ENTRIES) == {*FAMILIES, SEARCHED}
    rows = rows_of(directory)
    assert list(rows) == list(ENTRIES)
    assert all("that was tried" in row["remark"] for row in rows.values()), "there are but two learning rates"
    assert len(ran) == len(ENTRIES) * (len(RATES) + 1), "every learning rate once, and the best with a second seed"
    config = load_config(source)
    for name, row in rows.items():
        kept = RerunStore(directory / name / "trainings.json")
        architectures = {architecture for architecture, _ in kept._results}
        assert len(architectures) == 1
        (architecture,) = architectures
        first = [kept.get(architecture, place * 1000) for place in range(len(RATES))]
        scores = [result.score for result in first if result is not None]
        best = scores.index(max(scores))
        assert float(row["learning_rate"]) == RATES[best]
        seeds = [kept.get(architecture, best * 1000 + seed) for seed in range(2)]
        assert [row[f"validation_accuracy_seed{seed}"] for seed in range(2)] == [
            str(result.score) for result in seeds if result is not None
        ]
        model = directory / name / "model_seed1"
        assert float(row["test_accuracy_seed1"]) == evaluate_exported(model, config.data, "test")[0]["accuracy"]
        left = {path.stem for path in (directory / name / "full").iterdir()}
        assert left == {f"rate_{best}_seed_{seed}" for seed in range(2)}
    found = Architecture.from_dict(json.loads((directory / "found.json").read_text()))
    assert rows[SEARCHED]["architecture"] == str(found) and isinstance(found, PMFArchitecture)
    assert "PMF, searched" in output and "late_concat" not in output
    assert not (directory / "search" / "report.json").exists(), "the search has not asked for the test split"
    assert output.rindex(": validation accuracy") < output.index("testing the exported"), "test is for the end"
    text = (directory / "comparison.txt").read_text()
    assert text in output and all(line in text for line in ("is the largest that was tried", "over 2 seeds. Valid"))
    metrics = evaluate_exported(directory / "mbt" / "model_seed0", config.data, "test")[0]
    assert {name: float(rows["mbt"][f"test_{name}_seed0"]) for name in metrics} == metrics, "all of them"
    markdown = (directory / "comparison.md").read_text()
    assert "is the largest that was tried" in markdown
    assert markdown.count("\n| ") == len(ENTRIES) + 1 and "| MBT |" in markdown
    assert (directory / "comparison.svg").read_text().count("PMF") >= 1
    ran.clear()
    again = compared(source, directory, machine, ENTRIES)
    assert not ran and rows_of(directory) == rows
    assert again.endswith(output[output.index("also as") :])


def test_a_comparison_that_was_interrupted_goes_on(
    source: Path, machine: ExecutionOptions, tmp_path: Path, ran: list[tuple[str, float | None, int]], monkeypatch: Any
) -> None:
    expected = tmp_path / "undisturbed"
    compared(source, expected, machine, ["linear", "vpt"])
    undisturbed = len(ran)
    ran.clear()
    taken = RerunStore.add

    def failing(self: RerunStore, repetition: int, result: Result) -> None:
        taken(self, repetition, result)
        if len(ran) == 2:
            raise OSError(28, "No space left on device")

    directory = tmp_path / "interrupted"
    with monkeypatch.context() as patched:
        patched.setattr(RerunStore, "add", failing)
        with pytest.raises(OSError, match="No space left"):
            compared(source, directory, machine, ["linear", "vpt"])
    compared(source, directory, machine, ["linear", "vpt"])
    assert len(ran) == undisturbed
    seconds = {"seconds", "measured_peak_bytes"}
    first, second = (
        [{key: value for key, value in row.items() if key not in seconds} for row in rows_of(place).values()]
        for place in (expected, directory)
    )
    assert first == second


def test_what_does_not_fit_is_said_and_not_trained(
    source: Path, machine: ExecutionOptions, tmp_path: Path, ran: list[tuple[str, float | None, int]]
) -> None:
    """Fine-tuning needs more than a linear classifier."""
    directory = tmp_path / "comparison"
    compared(source, directory, machine, ["linear", "late_concat"], seeds=1)
    bytes_of = {name: int(row["training_bytes"]) for name, row in rows_of(directory).items()}
    assert bytes_of["late_concat"] > bytes_of["linear"]
    budget = 500 * 2**20 + 2**20 + (bytes_of["late_concat"] + bytes_of["linear"]) // 2
    ran.clear()
    output = compared(source, tmp_path / "small", machine, ["linear", "late_concat"], seeds=1, memory_bytes=budget)
    assert {family for family, _, _ in ran} == {"linear"}
    row = rows_of(tmp_path / "small")["late_concat"]
    assert "the memory budget is" in row["remark"] and row["test_accuracy_seed0"] == ""
    assert "LateConcat: needs" in output and "the memory budget is" in (tmp_path / "small/comparison.md").read_text()
    ran.clear()
    before = rows_of(directory)
    compared(source, directory, machine, ["linear", "late_concat"], seeds=1, memory_bytes=budget)
    assert not ran and rows_of(directory) == before, "it was trained when there was more memory"


def test_with_less_memory_what_was_trained_stays_in_the_table(
    source: Path, machine: ExecutionOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, names = tmp_path / "comparison", ["late_concat"]
    taken = RerunStore.add

    def failing(self: RerunStore, repetition: int, result: Result) -> None:
        if repetition % 1000:
            raise OSError(28, "No space left on device")
        taken(self, repetition, result)

    with monkeypatch.context() as patched:
        patched.setattr(RerunStore, "add", failing)
        with pytest.raises(OSError, match="No space left"):
            compared(source, directory, machine, names)
    output = compared(source, directory, machine, names, memory_bytes=501 * 2**20)
    row = rows_of(directory)["late_concat"]
    assert "what is missing is not trained" in output and "the memory budget is" in row["remark"]
    assert row["learning_rate"] and row["test_accuracy_seed0"] and not row["test_accuracy_seed1"]
    compared(source, directory, machine, names)
    assert rows_of(directory)["late_concat"]["test_accuracy_seed1"]
    assert "the memory budget is" not in rows_of(directory)["late_concat"]["remark"]


def test_what_does_not_fit_is_trained_in_micro_batches_where_the_file_allows_it(
    project: Project, machine: ExecutionOptions, tmp_path: Path
) -> None:
    source = project.write(
        "parts.yaml",
        **{"compare": {"learning_rates": RATES}, "recipe.epochs": 1, "budget.oversized": "accumulate"},
    )
    directory, names = tmp_path / "comparison", ["mmbt"]
    compared(source, directory, machine, names, seeds=1)
    whole = rows_of(directory)["mmbt"]
    budget = 501 * 2**20 + int(whole["training_bytes"]) * 9 // 10
    compared(source, tmp_path / "small", machine, names, seeds=1, memory_bytes=budget)
    parts = rows_of(tmp_path / "small")["mmbt"]
    assert "micro-batches" in parts["remark"] and int(parts["training_bytes"]) < int(whole["training_bytes"])
    assert float(parts["validation_cross_entropy_seed0"]) == pytest.approx(
        float(whole["validation_cross_entropy_seed0"]), rel=1e-3
    ), "gradients are the same"
    compared(source, tmp_path / "small", machine, names, seeds=1)
    assert rows_of(tmp_path / "small")["mmbt"] == parts, "with more memory it is what it was"


def test_a_learning_rate_that_is_too_high_is_left_out(
    project: Project, machine: ExecutionOptions, tmp_path: Path
) -> None:
    rates = [1e-3, 1e20, 1e25, 1e30, 1e35]
    source = project.write("wild.yaml", **{"compare": {"learning_rates": rates}, "recipe.clip_norm": None})
    output = compared(source, tmp_path / "comparison", machine, ["vpt"], seeds=1)
    row = rows_of(tmp_path / "comparison")["vpt"]
    assert float(row["learning_rate"]) == 1e-3 and "is the smallest that was tried" in row["remark"]
    assert row["remark"].count("the loss is") == output.count("rejected: TrainingError") >= 2
    assert "the best on validation of 3 tried" in output, "1e30 cannot be better where 1e20 and 1e25 failed"
    assert (
        "TrainingError" not in compared(source, tmp_path / "comparison", machine, ["vpt"], seeds=1).partition("\n\n")[0]
    )


def test_seeds_that_all_fail_are_recorded_and_the_others_counted(
    project: Project,
    machine: ExecutionOptions,
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
        compared(source, tmp_path / "comparison", machine, ["linear"], seeds=4)
        assert len(ran) == expected, "what has failed is not tried again"
    row = rows_of(tmp_path / "comparison")["linear"]
    assert row["remark"].count("the loss is no number") == 3 and row["test_accuracy_seed1"] == ""
    assert "(1 of 4 seeds)" in (tmp_path / "comparison/comparison.md").read_text()


@pytest.mark.parametrize(
    ("scores", "tried"),
    [
        ([1, 2, 3, 4, 2, 1], [2, 3, 4, 5]),
        ([1, 5, 4, 3, 2, 1], [0, 1, 2, 3]),
        ([1, 2, 3, 4, 5, 6, 7], [2, 3, 4, 5, 6]),
        ([1, 2, 5, 4, 3], [1, 2, 3, 4]),
        ([4, 3, 3, None, None], [0, 1, 2]),
        ([3, 3, 3, 3], [0, 1, 2]),
        ([3, None, None], [0, 1]),
        ([None, None, None, 1], [0, 1, 2]),
        ([1, 2], [0, 1]),
        ([1], [0]),
    ],
)
def test_learning_rates_are_tried_from_the_middle_on_towards_where_it_gets_better(
    project: Project,
    machine: ExecutionOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scores: list[int | None],
    tried: list[int],
) -> None:
    """In a grid where scores rise and fall, the best of all is found."""
    rates = [1e-5 * 2**place for place in range(len(scores))]
    source = project.write("many.yaml", **{"compare": {"learning_rates": rates}, "recipe.epochs": 1})
    seen: set[int] = set()
    run = CandidateWorker.run

    def scored(self: CandidateWorker, job: Job, **options: Any) -> list[Result]:
        assert job.learning_rate is not None
        place = rates.index(job.learning_rate)
        seen.add(place)
        if (score := scores[place]) is None:
            raise TrainingError("the loss is no number")
        return [replace(result, score=float(score)) for result in run(self, job, **options)]

    monkeypatch.setattr(CandidateWorker, "run", scored)
    compared(source, tmp_path / "comparison", machine, ["linear"], seeds=1)
    row = rows_of(tmp_path / "comparison")["linear"]
    known = [score for place in tried if (score := scores[place]) is not None]
    assert sorted(seen) == tried
    assert row["learning_rate"] == (str(rates[scores.index(max(known))]) if known else "")


def test_numbers_of_other_settings_are_not_mixed(
    project: Project, source: Path, machine: ExecutionOptions, tmp_path: Path
) -> None:
    compared(source, tmp_path / "comparison", machine, ["linear"], seeds=1)
    other = project.write("other.yaml", **{"compare": {"learning_rates": RATES}, "recipe.epochs": 3})
    with pytest.raises(StudyError, match=r"holds another comparison:\n  - recipe.epochs: 2 → 3"):
        compared(other, tmp_path / "comparison", machine, ["linear"], seeds=1)
    with pytest.raises(StudyError, match="learning_rates"):
        compared(
            project.write("rates.yaml", **{"compare": {"learning_rates": [1e-2]}, "recipe.epochs": 2}),
            tmp_path / "comparison",
            machine,
            ["linear"],
            seeds=1,
        )
    vpt = project.write("vpt.yaml", family="vpt", space={"prompt_layer": [0], "prompts": [1, 2]})
    with pytest.raises(NasError, match="family: vpt is not allowed in a comparison; expected pmf"):
        compared(vpt, tmp_path / "vpt", machine, ["linear"])


def test_the_command_writes_the_table(
    source: Path, machine: ExecutionOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "comparison"
    arguments = ["compare", str(source), "--families", "p_bert", "linear", "--seeds", "1", "--run-dir", str(directory)]
    assert main([*arguments, "--workers", "0", "--cache-dir", str(machine.cache)]) == 0
    assert list(rows_of(directory)) == ["p_bert", "linear"]
    shown = capsys.readouterr().out
    assert "P-BERT" in shown and f"{directory}/comparison.md" in shown


def test_numbers_of_other_data_are_not_mixed(
    project: Project, source: Path, machine: ExecutionOptions, tmp_path: Path
) -> None:
    directory, manifest = tmp_path / "comparison", project.root / "manifest.csv"
    compared(source, directory, machine, ["linear"], seeds=1)
    before = manifest.read_text()
    try:
        manifest.write_text(before.replace("train", "validation", 1))
        with pytest.raises(StudyError, match="its data or encoders have changed since it was trained"):
            compared(source, directory, machine, ["linear"], seeds=1)
        lines = before.splitlines()
        place = next(index for index, line in enumerate(lines) if line.endswith("test"))
        manifest.write_text("\n".join([*lines[:place], *lines[place + 1 :]]) + "\n")
        assert "testing the exported" in compared(source, directory, machine, ["linear"], seeds=1)
    finally:
        manifest.write_text(before)
    assert "testing the exported" not in compared(source, directory, machine, ["linear"], seeds=1)
    image = project.images / lines[place].split(",")[0]
    times = (image.stat().st_atime_ns, image.stat().st_mtime_ns)
    try:
        os.utime(image, ns=(times[0], times[1] + 1))  # as another picture of that name
        assert "testing the exported" in compared(source, directory, machine, ["linear"], seeds=1)
    finally:
        os.utime(image, ns=times)
    (directory / "linear" / "trainings.json").unlink()  # as its message says where it is damaged
    again = compared(source, directory, machine, ["linear"], seeds=1)
    assert again.count(": validation accuracy") == len(RATES) and "testing the exported" in again


def test_a_first_attempt_that_fails_leaves_nothing_behind(
    project: Project, source: Path, machine: ExecutionOptions, tmp_path: Path
) -> None:
    directory = tmp_path / "comparison"
    with pytest.raises(NasError, match="nowhere"):
        compared(project.write("wrong.yaml", **{"encoders.image": "./nowhere"}), directory, machine, ["linear"])
    compared(source, directory, machine, ["linear"], seeds=1)
    with pytest.raises(StudyError, match="is not empty and holds no comparison"):
        compared(source, directory.parent, machine, ["linear"])
    (directory / "linear" / "tests.json").write_text("{")
    with pytest.raises(StudyError, match=r"tests.json: is damaged.*delete it"):
        compared(source, directory, machine, ["linear"], seeds=1)
    (directory / "comparison.json").write_text("{")
    with pytest.raises(StudyError, match=r"comparison.json: is damaged .*; compare in a new directory"):
        compared(source, directory, machine, ["linear"], seeds=1)


def test_a_start_that_is_killed_leaves_nothing_that_stands_in_the_way(
    source: Path, machine: ExecutionOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "comparison"
    with monkeypatch.context() as patched:
        patched.setattr("nas.run.comparison.compare._OneEntry._check_facts", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            compared(source, directory, machine, ["linear"], seeds=1)
    assert (directory / "linear").is_dir() and (directory / "comparison.json").exists()
    (directory / "comparison.json").rename(directory / ".comparison.json.0123456789abcdef")  # killed in the writing
    (directory / "linear").rmdir()
    compared(source, directory, machine, ["linear"], seeds=1)
    assert list(rows_of(directory)) == ["linear"]


def test_what_is_wrong_with_pmfs_space_is_said_before_other_families_are_trained(
    project: Project, machine: ExecutionOptions, tmp_path: Path, ran: list[tuple[str, float | None, int]]
) -> None:
    wrong = project.write("deep.yaml", **{"space.fusion_layer": [0, 1, 40]})
    with pytest.raises(NasError, match=r"deep\.yaml: 1 problem.*\n.*space\.fusion_layer: 40 is not allowed"):
        compared(wrong, tmp_path / "comparison", machine, ["linear", "pmf"])
    assert not ran


def test_a_searched_pmf_alone_goes_on_when_its_search_was_stopped(
    source: Path, machine: ExecutionOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
            compared(source, directory, machine, [SEARCHED], seeds=1)
    assert not (directory / "comparison.json").exists()
    other = source.with_name("other.yaml")
    other.write_text(source.read_text().replace("epochs: 2", "epochs: 3"))
    with pytest.raises(StudyError, match=r"holds another comparison:\n  - recipe\.epochs: 2 → 3"):
        compared(other, directory, machine, [SEARCHED], seeds=1)
    assert "put back" in compared(source, directory, machine, [SEARCHED], seeds=1)
    assert list(rows_of(directory)) == [SEARCHED]


def test_with_another_budget_it_is_searched_on_until_its_answer_is_trained(
    project: Project, machine: ExecutionOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, answers = tmp_path / "comparison", []
    original = best_full

    def found(run: Path, storage: str | None) -> Result | None:
        result = original(run, storage)
        assert result is not None
        answers.append(replace(result.architecture, query_prompts=1 + len(answers)))  # another one every time
        return replace(result, architecture=answers[-1])

    monkeypatch.setattr("nas.run.comparison.compare.best_full", found)

    def scored(trials: int) -> str:
        changes = {"compare": {"learning_rates": RATES}, "recipe.epochs": 1, "budget.trials": trials}
        output = compared(project.write("budget.yaml", **changes), directory, machine, [SEARCHED], seeds=1)
        return next((line for line in output.splitlines() if line.startswith("Search: ")), output)

    with monkeypatch.context() as patched:
        patched.setattr("nas.run.comparison.compare._OneEntry.train", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            scored(3)
    (directory / SEARCHED / "failures.json").write_text("{")  # of the first answer
    assert scored(6).startswith("Search: 6 screened")
    assert rows_of(directory)[SEARCHED]["architecture"] == str(answers[1])
    assert "so its budget stays what it was" in scored(9)
    assert "Search: " not in scored(9) and len(answers) == 2


def test_the_answer_is_read_from_the_database_that_the_search_was_given(
    source: Path, machine: ExecutionOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the password, which is not kept."""
    opened: list[str | None] = []
    original = open_study

    def noted(*arguments: Any, storage: str | None = None, **options: Any) -> Study:
        opened.append(storage)
        return original(*arguments, storage=storage, **options)

    monkeypatch.setattr("nas.run.commands.open_study", noted)
    monkeypatch.setattr("nas.run.select.open_study", noted)
    url = f"sqlite:///{tmp_path}/study.db"
    compared(source, tmp_path / "comparison", replace(machine, storage=url), [SEARCHED], seeds=1, trials=2)
    assert len(opened) >= 2 and set(opened) == {url}


def test_who_ran_out_of_memory_is_tried_again_with_more_of_it_and_other_failures_are_not(
    source: Path, machine: ExecutionOptions, tmp_path: Path, ran: list[tuple[str, float | None, int]]
) -> None:
    directory = tmp_path / "comparison"
    compared(source, directory, machine, ["linear"], seeds=1)
    trials = {str(place * 1000): f"learning rate {rate:g}, seed 0: too much" for place, rate in enumerate(RATES)}
    (directory / "linear" / "trainings.json").unlink()
    for kind, memory, budget, expected in (
        ("error", 2**32, 2**33, 0),
        ("memory", 2**32, 2**32, 0),
        ("memory", 2**32, 2**33, 2),
    ):
        entries = {key: {"said": said, "kind": kind, "memory_bytes": memory} for key, said in trials.items()}
        (directory / "linear" / "failures.json").write_text(json.dumps(entries))
        ran.clear()
        compared(source, directory, machine, ["linear"], seeds=1, memory_bytes=budget)
        assert len(ran) == expected
        assert ("too much" in rows_of(directory)["linear"]["remark"]) == (expected == 0)
    compared(source, directory, machine, ["linear"], seeds=1, memory_bytes=2**32)
    assert "too much" not in rows_of(directory)["linear"]["remark"], "they have a result since"
    (directory / "linear" / "failures.json").write_text('{"0": "too much"}')
    with pytest.raises(StudyError, match=r"failures\.json: is damaged"):
        compared(source, directory, machine, ["linear"], seeds=1)


def test_one_driver_at_a_time(
    source: Path, machine: ExecutionOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "comparison"
    directory.mkdir()
    with contextlib.closing(LockFile(directory / "driver.lock")), pytest.raises(StudyError, match=str(directory)):
        compared(source, directory, machine, ["linear"])
    # A second one beside the first.
    monkeypatch.setattr(
        "nas.run.comparison.compare._OneEntry", lambda *arguments: compared(source, directory, machine, ["vpt"])
    )
    with pytest.raises(StudyError, match=f"process {os.getpid()}"):
        compared(source, directory, machine, ["linear"])


def test_an_unknown_family_is_one_message(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(source), "--families", "linear", "pfm"]) == 2
    assert "--families pfm: expected any of image_only" in capsys.readouterr().err


def test_spread_is_of_a_sample() -> None:
    assert spread([0.5, 0.6, 0.7]) == "0.6000 ± 0.1000" and spread([0.5]) == "0.5000" and spread([]) == "–"
    assert spread([0.5, None, 0.7]) == "0.6000 ± 0.1414 (2 of 3 seeds)" and spread([None]) == "–"
