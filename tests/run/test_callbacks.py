"""Callbacks and loggers of a search: their events, their exceptions, and what TensorBoard reads."""

import importlib.util
import io
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

import nas
from nas.common.errors import ArgumentError, StudyError
from nas.common.interrupt import Interrupted
from nas.common.progress import LineReporter
from nas.run.api.options import execution_of
from nas.run.callbacks import Callback, CallbackList, EndEvent, StageEvent, TrialEvent, ending
from nas.run.executors import ExecutionOptions
from nas.run.history import HISTORY, HistoryPoint, read_history
from nas.run.loggers.base import LOGGERS_FILE, check_loggers, recorded_loggers
from nas.run.loggers.tensorboard import FOLDER, TensorBoardLogger
from tests.support.factories import make_failure, make_result
from tests.support.runs import counts_of, resume_search


class Recorder(Callback):
    """Keeps all events."""

    def __init__(self) -> None:
        self.stages: list[StageEvent] = []
        self.trials: list[TrialEvent] = []
        self.points: list[HistoryPoint] = []
        self.ends: list[EndEvent] = []

    def on_stage(self, event: StageEvent) -> None:
        self.stages.append(event)

    def on_trial(self, event: TrialEvent) -> None:
        self.trials.append(event)

    def on_points(self, points: Sequence[HistoryPoint]) -> None:
        self.points += points

    def on_end(self, event: EndEvent) -> None:
        self.ends.append(event)


class Broken(Callback):
    """Fails at every result."""

    def on_trial(self, event: TrialEvent) -> None:
        raise ValueError("no\nroom")


def scalars(folder: Path) -> dict[str, Any]:
    """Return what TensorBoard shows of one of its runs: step and value of every point, by tag."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def point(step: int, value: float, *, split: str = "train", stage: str = "full", name: str = "loss") -> HistoryPoint:
    return HistoryPoint(1000.0 + step, "3", stage, 7, step, 100, step / 10, split, name, value)


def test_search_sends_its_events_and_logs_them(copy: Path, options: ExecutionOptions) -> None:
    before = read_history(copy / HISTORY)
    count = counts_of(copy)[0]
    recorder = Recorder()
    followed = replace(options, callbacks=(Broken(), recorder), log_to=("tensorboard",))
    output = resume_search(copy, followed, trials=count + 2)
    assert output.count("Callback Broken.on_trial failed: ValueError: no room") == 1
    stages = [event.stage for event in recorder.stages]
    assert {"candidates", "finalists"} <= set(stages)
    assert [event.outcome for event in recorder.ends] == ["finished"]
    assert recorder.ends[0].directory == copy and recorder.ends[0].spent_seconds > 0
    screened = [event for event in recorder.trials if event.stage == "one_shot"]
    assert len(screened) == 2 and {int(event.trial) for event in screened} == {count, count + 1}
    assert all("fusion_layer" in event.genes and "accuracy" in event.metrics for event in screened)
    assert recorder.points == read_history(copy / HISTORY)[len(before) :]
    shown = scalars(copy / FOLDER / "scores")["one_shot/accuracy"]
    assert shown == [(int(event.trial), pytest.approx(event.metrics["accuracy"])) for event in screened]
    curves = {point.series for point in recorder.points if point.is_loss}
    for trial, stage, seed, *_ in curves:
        place = f"{stage}/{trial}/seed_{seed}" if stage == "rerun" else f"{stage}/{trial}"
        expected = [
            (entry.step, pytest.approx(entry.value))
            for entry in recorder.points
            if entry.series[:3] == (trial, stage, seed) and entry.is_loss
        ]
        assert scalars(copy / FOLDER / place)["train/loss"] == expected
    folders = {path.parent for path in (copy / FOLDER).rglob("events*")}
    resume_search(copy, options)  # continues the same logger, without another
    assert {path.parent for path in (copy / FOLDER).rglob("events*")} == folders
    assert recorded_loggers(copy) == ["tensorboard"]


def test_training_that_starts_again_or_resumes_has_one_curve_in_tensorboard(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    logger.on_points([point(step, 9.0) for step in (10, 20, 30)])
    logger.on_points([point(10, 5.0)])  # after a crash of its worker
    logger.on_points([point(20, 4.0)])
    logger.close()
    logger = TensorBoardLogger(tmp_path)  # after a kill at step 20, whose point is repeated
    logger.on_points([point(20, 3.0), point(30, 2.0)])
    logger.on_points([point(30, 1.5, split="validation"), point(30, 0.5, split="validation", name="accuracy")])
    logger.close()
    shown = scalars(tmp_path / FOLDER / "full" / "3")
    assert shown == {
        "train/loss": [(10, 5.0), (20, 3.0), (30, 2.0)],
        "validation/loss": [(30, 1.5)],
        "validation/accuracy": [(30, 0.5)],
    }


def test_exception_is_reported_once_and_other_callbacks_go_on() -> None:
    stream, recorder = io.StringIO(), Recorder()
    callbacks = CallbackList([Broken(), recorder], LineReporter(stream))
    events = [TrialEvent.of_result(Path("run"), make_result(trial=trial)) for trial in range(3)]
    for event in events:
        callbacks.on_trial(event)
    assert recorder.trials == events
    assert stream.getvalue().count("Broken.on_trial") == 1


def test_failure_of_a_candidate_is_an_event_with_its_reason() -> None:
    event = TrialEvent.of_failure(Path("run"), make_failure(reason="the loss is not finite"))
    assert (event.trial, event.stage, event.failure, event.metrics) == ("0", "one_shot", "the loss is not finite", {})


@pytest.mark.parametrize(
    ("error", "outcome"), [(None, "finished"), (Interrupted(), "interrupted"), (StudyError("lost"), "failed")]
)
def test_end_says_how_the_session_ended(error: Exception | None, outcome: str) -> None:
    recorder, raised = Recorder(), None
    try:
        with ending(recorder, Path("run"), lambda: 2.5):
            if error is not None:
                raise error
    except (Interrupted, StudyError) as caught:
        raised = caught
    assert raised is error
    assert recorder.ends == [EndEvent(Path("run"), outcome, 2.5)]  # type: ignore[arg-type]


def test_missing_library_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ArgumentError, match=r"--log-to tensorboard: .*not installed; run pip install 'pmf-nas\[loggers\]'"
    ):
        check_loggers(["tensorboard"])


@pytest.mark.parametrize("content", ["", "[]", '{"loggers": ["another"]}', '{"loggers": "tensorboard"}'])
def test_damaged_record_of_loggers_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / LOGGERS_FILE).write_text(content)
    with pytest.raises(StudyError, match=r"loggers\.json: is (damaged|not valid JSON)"):
        recorded_loggers(tmp_path)


def test_loggers_and_callbacks_are_options_of_python() -> None:
    recorder = Recorder()
    options = execution_of({"callbacks": [recorder], "log_to": ["tensorboard"]})
    assert options.callbacks == (recorder,) and options.log_to == ("tensorboard",)
    assert nas.Callback is Callback and "torch.utils.tensorboard" in sys.modules
    with pytest.raises(ArgumentError, match="log_to: expected a list of tensorboard, mlflow, wandb, got 'tensorboard'"):
        execution_of({"log_to": "tensorboard"})
