"""Estimate the time of what follows the first supernet steps from their speed. Plain arithmetic.

A search with a time budget is planned before (see `nas.run.phase_plan`); here it learns whether its supernet fits.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nas.common.units import format_seconds
from nas.config.schema import Config
from nas.run.forecast import EVALUATION, Forecast, forecast_of
from nas.training.loss_curve import evaluation_count

SHOWN_FROM_SECONDS = 60.0
"""The shortest search whose times are worth a line."""

_MIN_STEPS, _MIN_SECONDS = 3, 3.0
_STEPS_PER_EVALUATION = 1 / 3  # a training step costs about three forward passes
_STEPS_PER_PRETRAINING_STEP = 3  # with a momentum model, and two negatives for each pair


class StepTimer:
    """Measures the seconds per step of a training from its progress.

    Args:
        now: A monotonic clock in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._first: tuple[int, float] | None = None
        self._is_done = False

    def seconds_per_step(self, done: int) -> float | None:
        """Return the seconds per step as soon as they are known, and None before and afterwards.

        The first steps that are reported only start the clock: they include what happens once.

        Args:
            done: The number of steps done.
        """
        now = self._now()
        if self._first is None:
            self._first = done, now
        first, started = self._first
        if self._is_done or done - first < _MIN_STEPS or now - started < _MIN_SECONDS:
            return None
        self._is_done = True
        return (now - started) / (done - first)


@dataclass(frozen=True)
class Speed:
    """The measured speed of a search.

    Args:
        step_seconds: The time of a step of the supernet, in which several processes train.
        process_count: The number of these processes, and of jobs that run at once afterwards.
        steps_left: The number of steps that the supernet is still to be trained for.
        spent_seconds: The time that the search has used until now.
        seconds_left: The time until the end of the supernet's training; infinite without a time budget.
    """

    step_seconds: float
    process_count: int
    steps_left: int
    spent_seconds: float
    seconds_left: float = math.inf


class TimePlan:
    """The times of the phases of a search.

    Args:
        config: The configuration of the search.
        full_steps: The number of steps of a full training.
        validation_count: The number of validation samples.
        evaluation_seconds: The time of evaluating the models of the search on test.
        first_count: The number of full trainings besides those of the finalists: of the default and its variant.
    """

    def __init__(
        self,
        config: Config,
        *,
        full_steps: int,
        validation_count: int,
        evaluation_seconds: float = 0.0,
        first_count: int = 1,
    ) -> None:
        self._config = config
        self._evaluation_seconds = evaluation_seconds
        self._full_steps = full_steps
        self._first_count = first_count
        self._validation_batches = validation_count / config.recipe.batch_size

    def seconds(self, trials: int, speed: Speed) -> Mapping[str, float]:
        """Return the seconds that supernet, candidates, finalists and race of a search without a time budget take.

        Args:
            trials: The number of candidates.
            speed: The measured speed.
        """
        search = self._config.search
        step, evaluation = self._training_step(speed), self._evaluation(speed)
        short = search.short_training_steps * step + evaluation
        each = evaluation + search.promotion_fraction * short
        full = (self._full_steps + self._pretraining_steps) * step + evaluation
        full += evaluation_count(self._full_steps * step, evaluation) * evaluation  # for the learning curve
        models = search.finalists + 1  # the default races as well
        trainings = search.finalists + self._first_count
        return {
            "supernet": self._needed(speed),
            "candidates": trials * each / speed.process_count,
            "finalists": math.ceil(trainings / speed.process_count) * full,
            "race": math.ceil(models * search.rerun_seeds / speed.process_count) * full,
        }

    def forecast(self, speed: Speed, spent_seconds: float) -> Forecast | None:
        """Return the forecast of a search without a time budget; None for one that has a time budget.

        Args:
            speed: The measured speed.
            spent_seconds: The time that the supernet has used.
        """
        budget = self._config.budget
        if budget.time_seconds is not None:
            return None
        assert budget.trials is not None
        seconds = dict(self.seconds(budget.trials, speed))
        seconds["supernet"] += spent_seconds
        return forecast_of({**seconds, EVALUATION: self._evaluation_seconds})

    def lines(self, speed: Speed) -> list[str]:
        """Return the lines about the times, and about a supernet that is longer than its time; none if all is short.

        Args:
            speed: The measured speed.
        """
        budget = self._config.budget
        if budget.time_seconds is not None:
            return self._correction(speed) if budget.time_seconds >= SHOWN_FROM_SECONDS else []
        assert budget.trials is not None
        seconds = self.seconds(budget.trials, speed)
        if speed.spent_seconds + sum(seconds.values()) < SHOWN_FROM_SECONDS:
            return []
        return [
            f"Estimated from the first steps: supernet {format_seconds(seconds['supernet'])} → screening "
            f"{format_seconds(seconds['candidates'])} → full training {format_seconds(seconds['finalists'])} → "
            f"race up to {format_seconds(seconds['race'])}"
        ]

    def _correction(self, speed: Speed) -> list[str]:
        needed = self._needed(speed)
        if needed <= speed.seconds_left:
            return []
        fitting = int(max(speed.seconds_left, 0.0) / speed.step_seconds)
        return [
            f"Supernet: supernet.steps: {speed.steps_left} more steps would take {format_seconds(needed)}; the "
            f"{format_seconds(speed.seconds_left)} that its part of the time leaves hold about {fitting}, over which "
            "the learning rate decays"
        ]

    def _needed(self, speed: Speed) -> float:
        return speed.steps_left * speed.step_seconds

    @property
    def _pretraining_steps(self) -> int:
        """The steps of a pretraining, in numbers of training steps."""
        config = self._config
        is_pretrained = config.pretraining.objectives_of(config.space.architecture_class)
        own = config.pretraining
        return _STEPS_PER_PRETRAINING_STEP * own.steps + own.text_steps if is_pretrained else 0

    def _training_step(self, speed: Speed) -> float:
        """Return the seconds of a training step of one architecture in one process."""
        return speed.step_seconds / math.ceil(self._config.supernet.architectures_per_step / speed.process_count)

    def _evaluation(self, speed: Speed) -> float:
        return self._validation_batches * _STEPS_PER_EVALUATION * self._training_step(speed)
