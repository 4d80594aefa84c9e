"""The points of a learning curve: their places, and the means of the losses between them."""

from itertools import pairwise

import pytest

from nas.training.loss_curve import MAX_POINTS, LossCurve


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
