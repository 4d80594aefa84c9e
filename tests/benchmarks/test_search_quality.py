"""The comparison of searches: order of its cells, counts, intervals, and which figures are marked."""

import csv
import math
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks.quality.bootstrap import Comparison, Difference, metrics
from benchmarks.quality.cells import SEEDS, Cell, ordered_cells, run_cells
from benchmarks.quality.figures import PAIRS, compare, gather
from benchmarks.quality.finished import FinishedCell, FinishedCells, models_of
from benchmarks.quality.predictions import Counts, counts_of
from benchmarks.quality.roles import DEMO_RECIPE, role_values
from benchmarks.quality.seeds import run_jobs
from benchmarks.quality.tasks import hide_test, suite_tasks
from nas.config.load import parse_config
from nas.training.metrics import evaluate_logits, tune_threshold

TASKS = ("first", "second")
PICTURES, SEED_COUNT = 60, 4
Floats = NDArray[np.float64]


def test_cells_are_balanced_wherever_they_stop() -> None:
    """All tasks with seed 0 first, then the other roles of a seed; every role has its number of seeds."""
    cells = ordered_cells(TASKS)
    assert [(cell.role, cell.task, cell.seed) for cell in cells[:4]] == [
        ("search", "first", 0),
        ("fresh", "first", 0),
        ("search", "second", 0),
        ("fresh", "second", 0),
    ]
    assert [(cell.role, cell.task) for cell in cells[4:6]] == [("default_tuned", "first"), ("default_tuned", "second")]
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)
    counts = {role: sum(cell.role == role for cell in cells) for role in SEEDS}
    assert counts == {role: 2 * count for role, count in SEEDS.items()}
    assert len(set(cells)) == len(cells)
    assert {cell.seed for cell in ordered_cells(TASKS, 1)} == {0}


class Clock:
    """A clock that only cells advance."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_cells_stop_when_no_whole_one_fits_and_finished_ones_are_not_repeated() -> None:
    cells, done, clock = ordered_cells(TASKS), list[Cell](), Clock()

    def run(cell: Cell) -> None:
        clock.seconds += 10
        done.append(cell)

    def session(seconds: float) -> list[Cell]:
        clock.seconds = 0.0
        return run_cells(cells, run, done.__contains__, seconds=seconds, expected_seconds=8, now=clock)

    assert session(7.9) == cells
    assert session(35) == cells[3:]
    assert session(20) == cells[5:]
    assert session(math.inf) == []
    assert done == cells


def test_interrupted_cell_runs_again() -> None:
    cells, done = ordered_cells(TASKS, 1), list[Cell]()

    def run(cell: Cell) -> None:
        if cell == cells[1] and not interrupted:
            interrupted.append(cell)
            raise KeyboardInterrupt
        done.append(cell)

    interrupted = list[Cell]()
    options: dict[str, Any] = {"seconds": math.inf, "expected_seconds": 0.0}
    with pytest.raises(KeyboardInterrupt):
        run_cells(cells, run, done.__contains__, **options)
    assert run_cells(cells, run, done.__contains__, **options) == []
    assert done == cells


def test_further_seeds_start_only_while_there_is_time() -> None:
    """A training takes 10 seconds, and one starts every 5: the last that fits into 30 starts at 20."""
    clock, started, taken = Clock(), list[int](), list[Any]()
    jobs: Any = iter(range(100))

    def submit(job: Any) -> Future[Any]:
        started.append(job)
        future: Future[Any] = Future()
        future.set_result(f"result {job}")
        clock.seconds += 5
        return future

    run_jobs(
        submit,
        jobs,
        processes=2,
        may_start=lambda: clock.seconds + 10 <= 30,
        take=taken.append,
    )
    assert started == [0, 1, 2, 3, 4]
    assert sorted(taken) == [f"result {job}" for job in started]


def test_failed_training_ends_the_cell() -> None:
    failed: Future[Any] = Future()
    failed.set_exception(RuntimeError("no memory"))
    jobs: Any = iter([0, 1])
    with pytest.raises(RuntimeError, match="no memory"):
        run_jobs(lambda job: failed, jobs, processes=1, may_start=lambda: True, take=lambda result: None)


@pytest.mark.parametrize("metric", ["accuracy", "micro_f1_tuned"])
def test_counts_add_up_to_the_metric_of_the_program(metric: str) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(40, 5)).astype(np.float32)
    labels: Any = rng.integers(5, size=40) if metric == "accuracy" else (rng.random((40, 5)) > 0.7).astype(np.float32)
    threshold = 0.5 if metric == "accuracy" else tune_threshold(torch.from_numpy(logits), torch.from_numpy(labels))
    relative = logits - np.float32(np.log(threshold / (1 - threshold)))
    counts = counts_of(relative, labels, [f"{number % 13}.png" for number in range(40)], metric)
    assert counts.shape == (2, 13)
    expected = evaluate_logits(torch.from_numpy(logits), torch.from_numpy(labels))[metric]
    assert counts[0].sum() / counts[1].sum() == pytest.approx(expected, abs=1e-6)


def test_counts_of_other_samples_or_metrics_are_refused() -> None:
    logits = np.zeros((3, 2), dtype=np.float32)
    with pytest.raises(ValueError, match="expected those of 2 samples, got 3"):
        counts_of(logits, np.array([0, 1]), ["a", "b"], "accuracy")
    with pytest.raises(ValueError, match="expected one of accuracy, micro_f1_tuned, got macro_f1"):
        counts_of(logits, np.array([0, 1, 1]), ["a", "b", "c"], "macro_f1")


def draw_models(seed: int, accuracy: float, rows: int = 1) -> dict[int, Counts]:
    """Return models that are right on pictures of a difficulty that they share; every picture has some equal rows."""
    difficulty = np.random.default_rng(99).random(PICTURES)
    rng = np.random.default_rng(seed)
    found = {}
    for number in range(SEED_COUNT):
        hits = (difficulty + 0.3 * rng.normal(size=PICTURES) + 0.1 * rng.normal() < accuracy).astype(np.float64)
        found[number] = np.stack([rows * hits, np.full(PICTURES, float(rows))])
    return found


def slow_interval(first: dict[int, Counts], second: dict[int, Counts], draws: int = 3000) -> tuple[float, float]:
    """Return the ends of the interval by drawing pictures and seeds one by one."""
    rng = np.random.default_rng(5)
    values = []
    for _ in range(draws):
        pictures = rng.integers(PICTURES, size=PICTURES)
        total = 0.0
        for seed in rng.integers(SEED_COUNT, size=SEED_COUNT):
            for models, sign in ((first, 1), (second, -1)):
                hits, samples = (sum(models[seed][part][picture] for picture in pictures) for part in (0, 1))
                total += sign * hits / samples
        values.append(total / SEED_COUNT)
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def test_interval_is_that_of_drawing_pictures_and_seeds_one_by_one() -> None:
    first, second = draw_models(1, 0.7), draw_models(2, 0.5)
    found = Comparison(0, PICTURES).difference(first, second).interval()
    assert found["mean"] == pytest.approx(metrics(first).mean() - metrics(second).mean())
    assert (found["low"], found["high"]) == pytest.approx(slow_interval(first, second), abs=0.012)


def test_draws_of_one_search_have_the_closed_form_of_a_mean_of_pictures() -> None:
    first, second = {0: draw_models(1, 0.7)[0]}, {0: draw_models(2, 0.5)[0]}
    draws = Comparison(0, PICTURES).difference(first, second).draws
    differences = first[0][0] - second[0][0]
    assert draws.std() == pytest.approx(differences.std() / math.sqrt(PICTURES), rel=0.03)
    assert draws.mean() == pytest.approx(differences.mean(), abs=0.005)


def test_all_rows_of_a_picture_are_drawn_together() -> None:
    """Equal rows of a picture add no information."""
    one, many = (
        Comparison(0, PICTURES).difference(draw_models(1, 0.7, rows), draw_models(2, 0.5, rows)) for rows in (1, 4)
    )
    assert one.draws == pytest.approx(many.draws)


def test_equal_models_of_equal_seeds_differ_by_nothing() -> None:
    models = draw_models(1, 0.7)
    assert not Comparison(0, PICTURES).difference(models, models).draws.any()


def test_roles_with_other_seeds_are_drawn_independently() -> None:
    """The variance over seeds of both sides is added, where each picture is in every draw as often."""
    first = {seed: np.array([[0.1 * seed], [1.0]]) for seed in range(5)}
    second = {seed: np.array([[0.2 * seed], [1.0]]) for seed in range(3)}
    draws = Comparison(0, 1).difference(first, second).draws
    expected = 0.1**2 * 2 / 5 + 0.2**2 * (2 / 3) / 3
    assert draws.var() == pytest.approx(expected, rel=0.05)


def test_pooled_difference_gives_data_sets_equal_weight() -> None:
    small = Difference(0.1, np.full(10, 0.1))
    large = Difference(0.3, np.linspace(0.2, 0.4, 10))
    pooled = Difference.pooled([small, large])
    assert pooled.value == pytest.approx(0.2)
    assert pooled.draws == pytest.approx((small.draws + large.draws) / 2)


def test_data_sets_are_drawn_independently() -> None:
    first, second = draw_models(1, 0.7), draw_models(2, 0.5)
    draws = [Comparison(place, PICTURES).difference(first, second).draws for place in (0, 1)]
    assert abs(np.corrcoef(draws[0], draws[1])[0, 1]) < 0.06


def test_searches_see_validation_in_place_of_test(tmp_path: Path) -> None:
    rows = [("a", "train"), ("b", "validation"), ("c", "test"), ("d", "test")]
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("image,text,label,split\n" + "".join(f"{name}.png,{name},x,{split}\n" for name, split in rows))
    with hide_test(manifest, tmp_path / "runs" / "hidden.csv").open() as file:
        assert [(row["image"], row["split"]) for row in csv.DictReader(file)] == [
            ("a.png", "train"),
            ("b.png", "validation"),
            ("b.png", "test"),
        ]


TASK = {
    "name": "task",
    "data": {"manifest": "manifest.csv", "images": "images"},
    "encoders": {"image": "image", "text": "text"},
    "search": {"objective": "accuracy"},
}
SPACE = {
    "fusion_layer": [4],
    "query_prompts": [4],
    "query_context_prompts": [4],
    "fusion_context_prompts": [4],
    "mapping_width": [96],
}


@pytest.mark.parametrize("role", ["search", "random", "default_tuned", "default_fixed"])
def test_search_file_of_every_role_is_valid(role: str) -> None:
    values = role_values(role, TASK, {"time": "6m"}, SPACE)
    config = parse_config(values, source=role, base_directory=Path("/"))
    assert config.budget.time_seconds == 360
    assert config.search.strategy == ("random" if role == "random" else "evolution")
    is_default = role.startswith("default")
    assert ("space.query_prompts" in config.automatic) != is_default
    assert (config.search.finalists == 1) == is_default
    assert (config.budget.recipe_fraction == 0) == (role == "default_fixed")
    assert (config.recipe.epochs == DEMO_RECIPE["epochs"]) == (role == "default_fixed")
    assert TASK["search"] == {"objective": "accuracy"}


def test_task_that_was_not_built_is_skipped_by_name(tmp_path: Path) -> None:
    tasks, skipped = suite_tasks(tmp_path, ["clipart", "grocery"])
    assert not tasks
    assert list(skipped) == ["clipart", "grocery"]
    assert "manifest.csv is missing" in skipped["grocery"]


def right_answers(count: int) -> Counts:
    """Return the counts of a model that is right about so many of 10 pictures."""
    return np.stack([(np.arange(10) < count).astype(np.float64), np.ones(10)])


def finished_cell(counts: dict[str, Counts], **facts: Any) -> FinishedCell:
    """Return what figures need of a cell."""
    known: dict[str, Any] = {"answer": "single", "single_answer": "single", "expected": None}
    known |= {"peak_bytes": 1, "memory_bytes": 2, "wall_seconds": 400.0}
    return FinishedCell(known | facts, counts)


def counts_of_role(role: str) -> dict[str, Counts]:
    """Right answers of 10: the search's ensemble 9, its single model 8, linear 7, defaults 6, random 5."""
    if role == "search":
        right = {"ensemble": 9, "single": 8, "answer": 9, "linear": 7}
    elif role == "default_tuned":
        right = {"default_tuned_ensemble": 6, "default_tuned_single": 6, "default_tuned_answer": 6}
    else:
        right = {"random_ensemble": 5, "random_single": 5, "random_answer": 5}
    return {name: right_answers(count) for name, count in right.items()}


def test_figures_follow_from_the_files_of_finished_cells(tmp_path: Path) -> None:
    """Figures name what is missing, and mark what needs it."""
    cells = [cell for cell in ordered_cells(TASKS, 1) if cell.role in ("search", "default_tuned", "random")]
    missing = [Cell("random", "second", 0)]
    expected = {"value": 0.7, "low": 0.6, "high": 0.75, "optimism": 0.0}
    kept = FinishedCells(tmp_path / "cells", "validation", {"time": "6m"})
    for cell in cells:
        if cell not in missing:
            linear = {"single_answer": "linear", "expected": expected} if cell.task == "first" else {}
            facts = {"answer": "ensemble", **linear} if cell.role == "search" else {}
            kept.add(cell, finished_cell(counts_of_role(cell.role), **facts))
    assert [cell for cell in cells if not kept.has(cell)] == missing
    known = {cell: kept.read(cell) for cell in cells if kept.has(cell)}
    evidence = {name: gather({cell: known[cell] for cell in known if cell.task == name}) for name in TASKS}
    figures = compare(evidence, missing, {})
    means = {key: entry["mean"] for key, entry in figures["pooled"].items()}
    assert means == pytest.approx(
        {
            "ensemble_over_default_tuned": 0.3,
            "single_over_default_tuned": 0.2,
            "answer_over_linear": 0.2,
            "answer_over_random": 0.4,
        }
    )
    assert figures["missing"] == ["second random 0"]
    assert figures["incomplete"] == ["second.answer_over_random", "pooled.answer_over_random"]
    assert set(figures["data_sets"]["second"]) & set(PAIRS) == set(means) - {"answer_over_random"}
    better = figures["data_sets"]["first"]["answer_over_better_simple"]
    assert (better["better"], better["mean"]) == ("linear", pytest.approx(0.2))
    assert figures["coverage"]["covered"] == figures["coverage"]["searches"] == 1
    assert figures["peaks_within_budget"]
    skipped = compare(evidence, missing, {"third": "no data"})["incomplete"]
    assert skipped == ["second.answer_over_random", *(f"pooled.{key}" for key in PAIRS)]


def test_finished_cells_of_another_budget_or_split_are_not_mixed(tmp_path: Path) -> None:
    cell = Cell("search", "first", 0)
    FinishedCells(tmp_path, "validation", {"time": "6m"}).add(cell, finished_cell(counts_of_role("search")))
    assert not FinishedCells(tmp_path, "test", {"time": "6m"}).has(cell)
    with pytest.raises(SystemExit, match=r"search-0.json: budget: .* expected \{'time': '2m'\}, got \{'time': '6m'\}"):
        FinishedCells(tmp_path, "validation", {"time": "2m"}).read(cell)


def test_models_of_a_cell_have_the_names_of_figures(tmp_path: Path) -> None:
    """Without an ensemble, the single model stands in; fresh seeds are numbered."""
    search, tuned, fresh = (Cell(role, "first", 0) for role in ("search", "default_tuned", "fresh"))
    for place in ("best", "linear", "ensemble"):
        (search.directory(tmp_path) / place).mkdir(parents=True)
    (tuned.directory(tmp_path) / "best").mkdir(parents=True)
    (fresh.directory(tmp_path) / "seed-0").mkdir(parents=True)

    def found(cell: Cell, answer: str) -> dict[str, str]:
        return {name: path.name for name, path in models_of(cell, tmp_path, answer).items()}

    answer = {"single": "best", "ensemble": "ensemble", "answer": "linear", "linear": "linear"}
    assert found(search, "linear") == answer
    assert set(found(tuned, "single")) == {"default_tuned_single", "default_tuned_ensemble", "default_tuned_answer"}
    assert set(found(tuned, "single").values()) == {"best"}
    assert found(fresh, "single") == {"seed-0": "seed-0"}
