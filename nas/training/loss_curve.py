"""The learning curve of one training: a few dozen points, each the mean loss of the steps since the one before.

Some points also have metrics on validation, where these cost little beside the training.
"""

import math
import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Literal

LossPhase = Literal["pretraining", "training"]

MAX_POINTS = 40
"""The largest number of points of one training."""

MAX_EVALUATIONS = 4
"""The largest number of evaluations during a training, besides the one at its end."""

EVALUATED_SHARE = 0.03
"""The largest part of the time of its steps that a training spends on these evaluations."""


def evaluation_count(training: float, evaluation: float) -> int:
    """Return how often a full training is evaluated before it ends.

    Args:
        training: What its steps take.
        evaluation: What an evaluation takes, in the same unit: seconds, or forward passes of a sample.
    """
    return min(MAX_EVALUATIONS, int(EVALUATED_SHARE * training / evaluation)) if evaluation > 0 else MAX_EVALUATIONS


def evaluated_steps(steps: int, count: int) -> frozenset[int]:
    """Return the numbers of the steps after which a training is evaluated, which are those of points of its loss.

    Args:
        steps: The total number of steps.
        count: The number of evaluations before the last step; fewer if there are fewer points.
    """
    points = min(MAX_POINTS, steps)
    places = {round(points * (index + 1) / (count + 1)) for index in range(count)} - {0, points}
    return frozenset(math.ceil(place * steps / points) for place in places)


@dataclass(frozen=True)
class LossPoint:
    """One point of a learning curve.

    Args:
        step: The number of finished steps, from 1.
        steps: The total number of steps.
        epoch: The number of passes over the training samples until then.
        loss: The mean training loss of the steps since the point before, or since the training was resumed.
        time: The time of day in seconds since 1970, by the clock of the worker.
        phase: Whether it belongs to the pretraining, whose steps are counted on their own.
        metrics: The metrics on validation after the step; empty at most points.
    """

    step: int
    steps: int
    epoch: float
    loss: float
    time: float
    phase: LossPhase = "training"
    metrics: Mapping[str, float] = field(default_factory=dict)


class LossCurve:
    """Collects the points of one training while it runs; another thread may read `points`.

    The points have fixed places among the steps, whenever the training was resumed: at most `MAX_POINTS`, the last one
    at the last step. A step costs one addition.

    Args:
        identity: What tells the training from others, such as the key and the stage of its model.
        steps: The total number of steps.
        epoch_steps: The number of steps of one pass over the training samples; need not be whole.
        phase: Whether the steps are those of a pretraining.
        earlier: The points of the pretraining before.
    """

    def __init__(
        self,
        identity: Hashable,
        steps: int,
        epoch_steps: float,
        *,
        phase: LossPhase = "training",
        earlier: tuple[LossPoint, ...] = (),
    ) -> None:
        self.identity = identity
        self.points: tuple[LossPoint, ...] = earlier
        """The points so far; replaced as a whole when there is another."""
        self._steps = steps
        self._epoch_steps = epoch_steps
        self._phase = phase
        self._sum, self._count = 0.0, 0
        self._metrics: dict[int, Mapping[str, float]] = {}

    def evaluate(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add the metrics on validation after a step whose loss is added later.

        Args:
            step: The number of the step; one of `evaluated_steps`.
            metrics: The metrics by name.
        """
        self._metrics[step] = metrics

    def add(self, step: int, loss: float) -> None:
        """Add the loss of a step.

        Args:
            step: The number of the step, from 1.
            loss: The mean loss over its samples.
        """
        self._sum, self._count = self._sum + loss, self._count + 1
        if _place(step, self._steps) == _place(step - 1, self._steps):
            return
        mean, metrics = self._sum / self._count, self._metrics.pop(step, {})
        epoch = step / self._epoch_steps
        self.points += (LossPoint(step, self._steps, epoch, mean, time.time(), self._phase, metrics),)
        self._sum, self._count = 0.0, 0


def _place(step: int, steps: int) -> int:
    """Return the number of points that belong to the first steps of a training."""
    return step * min(MAX_POINTS, steps) // steps
