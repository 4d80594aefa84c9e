"""Estimate the time of every phase of a search from the speed of its first supernet steps. Plain arithmetic."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nas.common.units import format_seconds
from nas.config.schema import Config
from nas.run.time_budget import Deadlines

SHOWN_FROM_SECONDS = 60.0
"""The shortest search whose times are worth a line."""

_MIN_STEPS, _MIN_SECONDS = 3, 3.0
_STEPS_PER_EVALUATION = 1 / 3  # a training step costs about three forward passes


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
    """

    step_seconds: float
    process_count: int
    steps_left: int
    spent_seconds: float


class TimePlan:
    """The times of the phases of a search.

    Args:
        config: The configuration of the search.
        full_steps: The number of steps of a full training.
        validation_count: The number of validation samples.
    """

    def __init__(self, config: Config, *, full_steps: int, validation_count: int) -> None:
        self._config = config
        self._deadlines = Deadlines(config.budget)
        self._full_steps = full_steps
        self._validation_batches = validation_count / config.recipe.batch_size

    def seconds(self, speed: Speed) -> Mapping[str, float]:
        """Return the seconds that are left for each phase: supernet, candidates, finalists and race.

        With a time budget, screening takes what the supernet leaves until its deadline.

        Args:
            speed: The measured speed.
        """
        search, deadlines = self._config.search, self._deadlines
        step, evaluation = self._training_step(speed), self._evaluation(speed)
        supernet = min(self._needed(speed), max(deadlines.supernet_seconds - speed.spent_seconds, 0.0))
        until = speed.spent_seconds + supernet
        candidates = max(deadlines.candidates_seconds - until, 0.0)
        if self._config.budget.trials is not None:
            short = search.short_training_steps * step + evaluation
            each = evaluation + search.promotion_fraction * short
            candidates = min(candidates, self._config.budget.trials * each / speed.process_count)
        full = self._full_steps * step + evaluation
        rounds = math.ceil((search.finalists + 1) / speed.process_count)  # the default is trained as well
        if not math.isinf(deadlines.total_seconds):
            # Those are trained for which there is time, and one in any case.
            end = deadlines.finalists_seconds if search.rerun_seeds else deadlines.total_seconds
            rounds = max(min(rounds, int((end - until - candidates) / full)), 1)
        race = math.ceil((search.finalists + 1) * search.rerun_seeds / speed.process_count) * full
        race = min(race, max(deadlines.total_seconds - until - candidates - rounds * full, 0.0))
        return {"supernet": supernet, "candidates": candidates, "finalists": rounds * full, "race": race}

    def lines(self, speed: Speed) -> list[str]:
        """Return the lines about the times, and about a supernet that is longer than its share; none if all is short.

        Args:
            speed: The measured speed.
        """
        seconds = self.seconds(speed)
        if speed.spent_seconds + sum(seconds.values()) < SHOWN_FROM_SECONDS:
            return []
        lines = [
            f"Estimated from the first steps: supernet {format_seconds(seconds['supernet'])} → screening "
            f"{format_seconds(seconds['candidates'])} → full training {format_seconds(seconds['finalists'])} → "
            f"race up to {format_seconds(seconds['race'])}"
        ]
        needed = self._needed(speed)
        if needed > seconds["supernet"]:
            fitting = int(seconds["supernet"] / speed.step_seconds)
            lines.append(
                f"Supernet: supernet.steps: {speed.steps_left} more steps need {format_seconds(needed)}, but "
                f"budget.supernet_fraction leaves {format_seconds(seconds['supernet'])}; corrected to about {fitting}, "
                "over which the learning rate decays"
            )
        return lines

    def _needed(self, speed: Speed) -> float:
        return speed.steps_left * speed.step_seconds

    def _training_step(self, speed: Speed) -> float:
        """Return the seconds of a training step of one architecture in one process."""
        return speed.step_seconds / math.ceil(self._config.supernet.architectures_per_step / speed.process_count)

    def _evaluation(self, speed: Speed) -> float:
        return self._validation_batches * _STEPS_PER_EVALUATION * self._training_step(speed)
