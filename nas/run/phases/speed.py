"""Measure how fast the default architecture trains, so that a time budget can be divided before anything is trained."""

import math
from pathlib import Path

from nas.execution.plan import Plan
from nas.run.phases.context import PhaseContext
from nas.run.phases.recipe import tuned_architecture
from nas.run.speed import TrainingSpeed, read_speed, write_speed
from nas.search.keys import SpeedKey
from nas.search.space import Architecture
from nas.search.trial import Failure, Job, Result
from nas.training.speed import EVALUATION_SECONDS, PRETRAINING_SECONDS, START_SECONDS, STEP_SECONDS


class SpeedPhase:
    """Trains the default architecture for a few steps in all workers at once, since they slow each other down.

    Args:
        default: The family's default architecture; the smallest of the space stands in where it does not fit.
        directory: The run directory.
    """

    def __init__(self, default: Architecture, directory: Path) -> None:
        self._default = default
        self._directory = directory

    def run(self, context: PhaseContext) -> TrainingSpeed | None:
        """Return the speed, of an earlier session if that had as many workers.

        Args:
            context: The search.

        Returns:
            The speed; None if it cannot be measured, or the user has interrupted the search.

        Raises:
            StudyError: If the stored speed is damaged.
            TrainingError: If training fails the same way repeatedly.
            OSError: If the speed cannot be stored.
        """
        stored = read_speed(self._directory)
        architecture = tuned_architecture(context, self._default)
        fit = context.feasibility.fit(architecture)
        if fit is None:
            return stored
        count = context.scheduler.capacity(fit.peak_bytes + fit.correction_bytes)
        is_spent = context.clock.is_over(context.clock.deadlines.total_seconds)
        if stored is not None and (stored.process_count == count or is_spent):
            return stored
        plan = SpeedPlan(context, architecture, count)
        context.run_plan("speed", plan, deadline_seconds=math.inf, counts=lambda: (len(plan.found), count))
        if not plan.found:
            return stored
        step, evaluation, start, pretraining = (
            max(result.metrics.get(name, 0.0) for result in plan.found)
            for name in (STEP_SECONDS, EVALUATION_SECONDS, START_SECONDS, PRETRAINING_SECONDS)
        )
        speed = TrainingSpeed(step, evaluation, count, pretraining + start)
        write_speed(self._directory, speed)
        return speed


class SpeedPlan(Plan):
    """One measurement for each worker, none of which is tried again.

    Args:
        context: The search.
        architecture: The architecture to train.
        count: The number of measurements.
    """

    def __init__(self, context: PhaseContext, architecture: Architecture, count: int) -> None:
        self._jobs = context.jobs
        self._architecture = architecture
        self._waiting = list(range(count))
        self.found: list[Result] = []

    def next_jobs(self) -> list[Job]:
        numbers, self._waiting = self._waiting, []
        jobs = [self._jobs.job(SpeedKey(number), self._architecture, "full", 0) for number in numbers]
        return [job for job in jobs if job is not None]

    def finished(self, result: Result) -> None:
        self.found.append(result)

    def rejected(self, failure: Failure) -> None:
        del failure  # the measurements of the other workers do

    def requeue(self, job: Job) -> None:
        del job
