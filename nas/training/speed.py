"""Measure how fast a model is pretrained, trained and evaluated, in a few steps and batches."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from nas.config.training_schema import RecipeConfig
from nas.data.features.store import FeatureSplit
from nas.models.fusion.base import FusionModel
from nas.training.evaluate import predict_logits
from nas.training.linear_start import start_classifiers
from nas.training.pretraining.pretrain import pretrain
from nas.training.pretraining.settings import PretrainingSettings
from nas.training.stopping import StopRequested
from nas.training.trainer import train

START_SECONDS, STEP_SECONDS, EVALUATION_SECONDS = "start_seconds", "step_seconds", "evaluation_seconds"
PRETRAINING_SECONDS = "pretraining_seconds"

_WARMUP_STEPS, _MIN_STEPS, _MAX_STEPS = 2, 4, 40
_ENOUGH_SECONDS = 2.0
_NO_STEP_SECONDS = 1e-6
"""The time of a step of a family that trains nothing, by which plans divide."""


class _Stopwatch:
    """Times the rounds of a loop, and ends it when their time is known.

    Args:
        should_stop: Whether the loop has to end for another reason.
        warmup: The number of rounds that are not timed.
    """

    def __init__(self, should_stop: Callable[[], bool], *, warmup: int = 0) -> None:
        self._should_stop = should_stop
        self._warmup = warmup
        self._times: list[float] = []
        self.is_enough = False

    def __call__(self) -> bool:
        """Return whether the loop has to end; called before every round."""
        self._times.append(time.perf_counter())
        timed = self._times[self._warmup :]
        self.is_enough = len(timed) > _MIN_STEPS and timed[-1] - timed[0] >= _ENOUGH_SECONDS
        return self.is_enough or self._should_stop()

    @property
    def seconds(self) -> float:
        """The mean time of a round."""
        timed = self._times[self._warmup :]
        if not timed:
            return _NO_STEP_SECONDS
        return (timed[-1] - timed[0]) / (len(timed) - 1)


def measure_speed(
    model: FusionModel,
    splits: Mapping[str, FeatureSplit],
    recipe: RecipeConfig,
    *,
    batch_size: int,
    micro_batches: int = 1,
    pretraining: PretrainingSettings | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Start a full training for a few steps, and evaluate the model on some batches of validation.

    Args:
        model: The model, whose weights are trained in place.
        splits: The samples of `train` and `validation`.
        recipe: The recipe, whose batches are trained.
        batch_size: The number of samples per batch of the evaluation.
        micro_batches: The number of micro-batches per batch.
        pretraining: The settings of the pretraining before a full training; None without one.
        should_stop: Called before every step and batch; the measurement ends when it returns true.

    Returns:
        The seconds until a pretrained model can be trained, of a training step, and of an evaluation of all validation
        samples; with a pretraining, also those of all its steps.

    Raises:
        StopRequested: If `should_stop` returned true.
        TrainingError: If the loss is not finite.
    """
    found: dict[str, float] = {}
    if pretraining is not None:
        found[PRETRAINING_SECONDS] = _pretraining_seconds(model, splits["train"], pretraining, should_stop)
    started = time.perf_counter()
    start_classifiers(model, splits["train"], recipe, batch_size=batch_size, should_stop=should_stop)
    start = time.perf_counter() - started
    step = _step_seconds(
        lambda stops: train(
            model=model,
            split=splits["train"],
            recipe=recipe,
            step_count=_WARMUP_STEPS + _MAX_STEPS,
            seed=0,
            micro_batches=micro_batches,
            should_stop=stops,
        ),
        should_stop,
    )
    batches = _Stopwatch(should_stop)
    started = time.perf_counter()
    try:
        predict_logits(
            model, splits["validation"], batch_size=batch_size, precision=recipe.precision, should_stop=batches
        )
        evaluation = time.perf_counter() - started
    except StopRequested:
        if not batches.is_enough:
            raise
        evaluation = batches.seconds * math.ceil(len(splits["validation"]) / batch_size)
    return {**found, START_SECONDS: start, STEP_SECONDS: step, EVALUATION_SECONDS: evaluation}


def _pretraining_seconds(
    model: FusionModel, split: FeatureSplit, settings: PretrainingSettings, should_stop: Callable[[], bool]
) -> float:
    """Return the seconds of all steps of a pretraining, by those of a few."""
    few = replace(settings, config=settings.config.replace(steps=_WARMUP_STEPS + _MAX_STEPS))
    step = _step_seconds(lambda stops: pretrain(model, split, few, seed=0, should_stop=stops), should_stop)
    return step * settings.config.steps


def _step_seconds(run: Callable[[Callable[[], bool]], None], should_stop: Callable[[], bool]) -> float:
    """Return the seconds of a step of a training, which takes the function by which it is stopped."""
    steps = _Stopwatch(should_stop, warmup=_WARMUP_STEPS)
    try:
        run(steps)
    except StopRequested:
        if not steps.is_enough:
            raise
    return steps.seconds
