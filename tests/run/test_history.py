"""The history of a run: what it holds, restarted trainings, kills, and its largest size."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from nas.run import history as module
from nas.run.history import HISTORY, SUPERNET, History, HistoryPoint, TrainingName, read_history
from nas.run.recipe_file import RECIPE, RecipeFile
from nas.run.reruns import RERUNS, RerunStore
from nas.search.keys import CandidateKey, DefaultKey, RecipeKey, RerunKey
from nas.search.trial import Result
from nas.training.loss_curve import MAX_POINTS, LossPoint
from tests.run.conftest import FinishedRun
from tests.support.factories import make_job, make_result
from tests.support.runs import results_of

TRAINING = TrainingName("3", "full", 7)


def points_until(step: int, *, first: int = 1, attempt: int = 0) -> list[LossPoint]:
    """Return the curve of an attempt: a point every step, whose loss is the number of the step."""
    return [LossPoint(place, 100, place / 10, float(place), attempt + place / 100) for place in range(first, step + 1)]


def losses(path: Path) -> list[tuple[int, float]]:
    """Return the step and the time of every point in a file."""
    return [(point.step, point.time) for point in read_history(path)]


def times(points: list[LossPoint]) -> list[tuple[int, float]]:
    return [(point.step, point.time) for point in points]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / HISTORY


def test_line_has_the_documented_keys(path: Path) -> None:
    history = History(path, "accuracy")
    history.add_losses(TRAINING, [LossPoint(25, 100, 2.5, 1.25, 1000.5)])
    history.add_result(make_result(trial=3, stage="full", step_count=100, metrics={"accuracy": 0.5}))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    place = {"trial": "3", "stage": "full", "seed": 7, "steps": 100, "epoch": 2.5}
    assert lines[0] == {
        **place,
        "time": 1000.5,
        "step": 25,
        "split": "train",
        "name": "loss",
        "value": 1.25,
    }
    assert lines[1] == {
        **place,
        "time": lines[1]["time"],
        "step": 100,
        "split": "validation",
        "name": "accuracy",
        "value": 0.5,
    }
    assert [HistoryPoint(**line) for line in lines] == read_history(path)


def test_only_new_points_of_a_growing_curve_are_written(path: Path) -> None:
    written: list[HistoryPoint] = []
    history = History(path, "accuracy", written.extend)
    for step in (0, 2, 2, 5, 5):
        history.add_losses(TRAINING, points_until(step))
    assert losses(path) == times(points_until(5))
    assert written == read_history(path)
    assert path.read_bytes().count(b"\n") == 5


def test_training_that_starts_again_in_the_same_session_replaces_its_points(path: Path) -> None:
    history = History(path, "accuracy")
    other = TrainingName("4", "full", 7)
    history.add_losses(other, points_until(4))
    history.add_losses(TRAINING, points_until(6))
    history.add_losses(TRAINING, points_until(2, attempt=5))
    assert losses(path) == times(points_until(4)) + times(points_until(2, attempt=5))
    history.add_losses(TRAINING, points_until(6))  # an answer of the first attempt that arrives late
    history.add_losses(TRAINING, points_until(3, attempt=5))
    assert losses(path) == times(points_until(4)) + times(points_until(3, attempt=5))
    assert history.add_result(make_result(trial=3, stage="full", step_count=3)) == {1: 1.0, 2: 2.0, 3: 3.0}


@pytest.mark.parametrize("first", [1, 3, 7])
def test_training_that_resumes_in_another_session_keeps_the_points_before(path: Path, first: int) -> None:
    History(path, "accuracy").add_losses(TRAINING, points_until(6))
    resumed = History(path, "accuracy")
    for step in (first, first + 1):
        resumed.add_losses(TRAINING, points_until(step, first=first, attempt=5))
    assert losses(path) == times(points_until(first - 1)) + times(points_until(first + 1, first=first, attempt=5))


def test_evaluations_during_a_training_come_with_its_losses(path: Path) -> None:
    written: list[HistoryPoint] = []
    history = History(path, "accuracy", written.extend)
    curve = [replace(point, metrics={"accuracy": 0.1, "cross_entropy": 2.5, "f1": 1.0}) for point in points_until(3)]
    for count in (1, 2):
        history.add_losses(TRAINING, curve[:1] if count == 1 else [curve[0], points_until(2)[1], curve[2]])
    history.add_result(make_result(trial=3, stage="full", step_count=4, metrics={"accuracy": 0.5}))
    found = [(point.step, point.name, point.value) for point in read_history(path) if point.split == "validation"]
    assert found == [
        *((step, *pair) for step in (1, 3) for pair in (("loss", 2.5), ("accuracy", 0.1))),
        (4, "accuracy", 0.5),
    ]
    assert written == read_history(path) and losses_of(path) == [1, 2, 3]
    History(path, "accuracy").add_losses(TRAINING, curve[:1])  # starts again
    left = [(point.step, point.name) for point in read_history(path) if point.split == "validation"]
    assert left == [(1, "loss"), (1, "accuracy")]


def losses_of(path: Path) -> list[int]:
    return [point.step for point in read_history(path) if point.is_loss]


def test_evaluation_that_is_repeated_replaces_the_earlier_one(path: Path) -> None:
    result = make_result(trial=3, metrics={"accuracy": 0.5, "cross_entropy": 1.5, "macro_f1": 0.4})
    History(path, "accuracy").add_result(result)
    History(path, "accuracy").add_result(replace(result, metrics={"accuracy": 0.75, "cross_entropy": float("nan")}))
    points = [(point.name, point.value, point.step, point.steps) for point in read_history(path)]
    assert points == [("loss", 1.5, 0, 0), ("accuracy", 0.75, 0, 0)]  # a loss that is no number is no point


def test_file_is_whole_after_a_kill_at_any_byte(path: Path) -> None:
    History(path, "accuracy").add_losses(TRAINING, points_until(2))
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        kept = whole[:size].count(b"\n")
        if whole[size : size + 1] != b"\n":
            assert losses(path) == times(points_until(kept))
        History(path, "accuracy").add_losses(TRAINING, points_until(2))
        assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


@pytest.mark.parametrize(
    "line", ["[1]", "{}", "null", '"text"', '{"time": 1', "\udcff", "[" * 10_000, '{"time": "soon"}']
)
def test_lines_that_are_no_points_are_skipped_and_removed(path: Path, line: str) -> None:
    History(path, "accuracy").add_losses(TRAINING, points_until(2))
    whole = path.read_bytes()
    path.write_bytes(line.encode(errors="surrogateescape") + b"\n" + whole)
    assert losses(path) == times(points_until(2))
    History(path, "accuracy")
    assert path.read_bytes() == whole


def test_oldest_losses_are_removed_beyond_the_largest_size(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 8_000
    monkeypatch.setattr(module, "MAX_LOSS_BYTES", most)
    history = History(path, "accuracy")
    history.add_losses(TrainingName(SUPERNET, SUPERNET, 1), points_until(3))
    largest = 0
    for trial in range(100):
        history.add_losses(TrainingName(str(trial), "short", 7), points_until(5))
        history.add_result(make_result(trial=trial, stage="short", step_count=5))
        lines = path.read_bytes().splitlines(keepends=True)
        largest = max(largest, sum(len(line) for line in lines if b'"train"' in line))
    assert most / 2 < largest <= most
    points = read_history(path)
    assert [point.step for point in points if point.stage == SUPERNET] == [1, 2, 3]
    assert sum(point.name == "accuracy" for point in points) == 100  # evaluations stay
    kept = [int(point.trial) for point in points if point.is_loss and point.stage == "short"]
    assert kept == sorted(kept) and kept[-5:] == [99] * 5 and kept[0] > 50


@pytest.mark.parametrize(
    ("key", "stage", "name"),
    [
        (CandidateKey(12), "one_shot", TrainingName("12", "one_shot", 7)),
        (CandidateKey(12), "full", TrainingName("12", "full", 7)),
        (DefaultKey(), "full", TrainingName("default", "full", 7)),
        (RerunKey(CandidateKey(12), 2), "full", TrainingName("12", "rerun", 7)),
        (RerunKey(DefaultKey(), 2), "full", TrainingName("default", "rerun", 7)),
        (RecipeKey(1, 0), "full", TrainingName("recipe_1_seed_0", "recipe", 7)),
    ],
)
def test_trainings_have_the_names_of_the_results_table(key: CandidateKey, stage: str, name: TrainingName) -> None:
    assert TrainingName.of(key, stage, 7) == name  # type: ignore[arg-type]


def test_finished_search_has_all_its_trainings_and_evaluations(finished: FinishedRun) -> None:
    points = read_history(finished.directory / HISTORY)
    results: list[Result] = [result for stage in results_of(finished.directory).values() for result in stage]
    results += RerunStore(finished.directory / RERUNS).results()
    results += RecipeFile(finished.directory / RECIPE).results()
    evaluated = {
        (TrainingName(point.trial, point.stage, point.seed), point.step): point.value  # type: ignore[arg-type]
        for point in points
        if point.name == "accuracy" and point.step == point.steps
    }
    default = {name: value for name, value in evaluated.items() if name[0].trial == "default"}
    expected = {
        (TrainingName.of(result.key, result.stage, result.seed), result.step_count): result.metrics["accuracy"]
        for result in results
    }
    assert {**default, **expected} == evaluated and len(results) > 5
    curves = Counter(point.series for point in points if point.is_loss)
    trained = {(*vars(name).values(), "train", "loss") for (name, step) in evaluated if step}
    assert curves.keys() - trained == {(SUPERNET, SUPERNET, 1, "train", "loss")} and trained <= curves.keys()
    for (trial, _, seed, *_), count in curves.items():
        steps = {point.steps for point in points if (point.trial, point.seed) == (trial, seed) and point.is_loss}
        assert count == min(MAX_POINTS, steps.pop()) and not steps


def test_points_of_a_pretraining_are_a_curve_of_their_own(path: Path) -> None:
    history = History(path, "accuracy")
    job = make_job(trial=3, stage="full", step_count=2)
    before = [LossPoint(step, 4, step / 10, 9.0, float(step), "pretraining") for step in range(1, 5)]
    after = [LossPoint(step, 2, step / 10, 1.0, 10.0 + step) for step in range(1, 3)]
    for count in (2, 4, 4, 5, 6):
        history.receiver(job, [*before, *after][:count])
    assert history.add_result(make_result(trial=3, stage="full", step_count=2)) == {1: 1.0, 2: 1.0}
    found = [(point.stage, point.step, point.steps) for point in read_history(path) if point.is_loss]
    assert found == [*(("pretraining", step, 4) for step in range(1, 5)), ("full", 1, 2), ("full", 2, 2)]
    # It starts again from its finished pretraining: that curve stays.
    history.receiver(job, after)
    assert [point.stage for point in read_history(path) if point.is_loss] == ["pretraining"] * 4 + ["full"] * 2
