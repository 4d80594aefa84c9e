"""The measured speed of a training, against a clock that the test moves."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from nas.training import speed
from nas.training.stopping import StopRequested
from tests.support.tiny_memory import RECIPE


class Clock:
    """A clock on which a step takes 0.3 seconds, the first two 5 more, and a batch of an evaluation 0.1."""

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0
        self.batches = 0

    def perf_counter(self) -> float:
        return self.now

    def train(self, *, step_count: int, should_stop: Callable[[], bool], **_: Any) -> None:
        for step in range(step_count):
            if should_stop():
                raise StopRequested
            self.steps += 1
            self.now += 5.3 if step < 2 else 0.3

    def start(self, *_: object, **__: object) -> None:
        self.now += 4.0

    def predict(
        self, model: object, split: list[int], *, batch_size: int, should_stop: Callable[[], bool], **other: object
    ) -> None:
        del other
        for _ in range(0, len(split), batch_size):
            if should_stop():
                raise StopRequested
            self.batches += 1
            self.now += 0.1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(speed, "time", clock)
    monkeypatch.setattr(speed, "start_classifiers", clock.start)
    monkeypatch.setattr(speed, "train", clock.train)
    monkeypatch.setattr(speed, "predict_logits", clock.predict)
    return clock


def measured(validation: int, should_stop: Callable[[], bool] = lambda: False) -> Mapping[str, float]:
    splits: Any = {"train": [], "validation": list(range(validation))}
    nothing: Any = None
    return speed.measure_speed(nothing, splits, RECIPE, batch_size=10, should_stop=should_stop)


def test_steps_are_timed_without_the_first_and_only_until_their_time_is_known(clock: Clock) -> None:
    assert measured(50) == pytest.approx({"start_seconds": 4.0, "step_seconds": 0.3, "evaluation_seconds": 0.5})
    assert clock.steps == 2 + 7, "which take 2.1 seconds"


def test_time_of_a_long_evaluation_is_that_of_its_first_batches_times_their_number(clock: Clock) -> None:
    assert measured(1_001)["evaluation_seconds"] == pytest.approx(101 * 0.1)
    assert clock.batches < 25


def test_measurement_ends_when_the_search_is_to_stop(clock: Clock) -> None:
    with pytest.raises(StopRequested):
        measured(50, should_stop=lambda: clock.steps == 3)
    with pytest.raises(StopRequested):
        measured(50, should_stop=lambda: clock.batches == 2)
