"""The points of a learning curve: their places, and the means of the losses between them."""

from itertools import pairwise

import pytest

from nas.training.loss_curve import MAX_EVALUATIONS, MAX_POINTS, LossCurve, evaluated_steps, evaluation_count


def curve_of(losses: list[float], *, steps: int, first: int = 1, epoch_steps: float = 8.0) -> LossCurve:
    """Return the curve of a training that runs from step `first` on."""
    curve = LossCurve("training", steps, epoch_steps)
    for step, loss in enumerate(losses, start=first):
        curve.add(step, loss)
    return curve


def test_training_with_fewer_steps_than_points_has_one_at_each_step() -> None:
    points = curve_of([3.0, 1.0, 2.0], steps=3).points
    assert [(point.step, point.steps, point.loss, point.epoch) for point in points] == [
        (1, 3, 3.0, 1 / 8),
        (2, 3, 1.0, 2 / 8),
        (3, 3, 2.0, 3 / 8),
    ]


@pytest.mark.parametrize("steps", [41, 79, 80, 1000, 12_345])
def test_points_are_evenly_spaced_means_of_the_steps_between_them(steps: int) -> None:
    losses = [(37 * step % 101) / 7 for step in range(1, steps + 1)]
    points = curve_of(losses, steps=steps).points
    places = [0, *(point.step for point in points)]
    assert len(points) == MAX_POINTS and places[-1] == steps
    spaces = {after - before for before, after in pairwise(places)}
    assert max(spaces) - min(spaces) <= 1
    for point, (before, after) in zip(points, pairwise(places), strict=True):
        assert point.loss == pytest.approx(sum(losses[before:after]) / (after - before), rel=1e-12)


def test_resumed_training_has_its_points_at_the_same_places() -> None:
    losses = [float(step) for step in range(1, 1001)]
    whole, rest = curve_of(losses, steps=1000), curve_of(losses[613:], steps=1000, first=614)
    places = [point.step for point in rest.points]
    assert places == [point.step for point in whole.points if point.step > 613]
    assert [point.loss for point in rest.points[1:]] == [point.loss for point in whole.points[-len(places) + 1 :]]
    assert rest.points[0].loss == sum(range(614, 626)) / 12  # of the steps since it was resumed


def test_evaluations_take_a_small_part_of_the_training_and_are_few() -> None:
    for training in (0.0, 1.0, 33.0, 34.0, 70.0, 1e9):
        count = evaluation_count(training, 1.0)
        assert 0 <= count <= MAX_EVALUATIONS and count <= 0.03 * training
    assert [evaluation_count(training, 2.0) for training in (66, 67, 134, 267, 1e6)] == [0, 1, 2, 4, 4]
    assert evaluation_count(10.0, 0.0) == MAX_EVALUATIONS


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 39, 40, 41, 198, 12_345])
@pytest.mark.parametrize("count", range(5))
def test_evaluations_are_evenly_spaced_points_of_the_curve_before_its_end(steps: int, count: int) -> None:
    found = sorted(evaluated_steps(steps, count))
    assert len(found) == min(count, max(steps - 1, 0)) or (steps < 6 and len(found) <= count)
    curve = LossCurve("training", steps, 1.0)
    for step in range(1, steps + 1):
        if step in found:
            curve.evaluate(step, {"accuracy": float(step)})
        curve.add(step, 1.0)
    evaluated = [point.step for point in curve.points if point.metrics == {"accuracy": float(point.step)}]
    assert evaluated == found and steps not in found
    assert all(abs(step - steps * (index + 1) / (count + 1)) <= steps / 80 + 1 for index, step in enumerate(found)) or (
        len(found) < count
    )
