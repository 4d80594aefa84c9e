"""Train the family's default and the best candidates completely, from fresh weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.execution.plan import Plan
from nas.run.phases.context import PhaseContext
from nas.run.phases.full_time import FullTrainingTime
from nas.run.reruns import read_simple_result
from nas.run.roles import DEFAULT
from nas.run.speed import TrainingSpeed
from nas.search.keys import CandidateKey, DefaultKey, ModelKey, VariantKey
from nas.search.promotion import PromotionQueue
from nas.search.space import Architecture
from nas.search.trial import Failure, Job, Result

VARIANT = VariantKey(0)
"""The key of the default with other readouts."""
_TOLERANCE = 1.2
"""How many times the time that is left a training may be estimated to take: estimates are rough, and a worker that
waits for the end gains nothing."""


@dataclass(frozen=True)
class FirstTrainings:
    """What is trained completely whatever the ranking is.

    Args:
        default: The family's default architecture, in the search space or not.
        variant: The default with other readouts, for the ensemble; None if there is none.
    """

    default: Architecture
    variant: Architecture | None = None


class FinalistPhase:
    """Trains the finalists, the family's default among them.

    Args:
        queue: The ranking of the candidates.
        first: What is trained before the candidates.
        directory: The run directory.
        full_steps: The number of steps of a full training.
        validation_count: The number of validation samples.
        speed: The measured speed of the default's training; None if it was not measured.
    """

    def __init__(
        self,
        queue: PromotionQueue,
        first: FirstTrainings,
        directory: Path,
        *,
        full_steps: int,
        validation_count: int,
        speed: TrainingSpeed | None = None,
    ) -> None:
        self._queue = queue
        self._first = first
        self._directory = directory
        self._full_steps = full_steps
        self._validation_count = validation_count
        self._speed = speed

    def run(self, context: PhaseContext) -> None:
        """Train the finalists until the time budget is spent.

        Raises:
            StudyError: If the stored training of the default is damaged.
            TrainingError: If training fails the same way repeatedly.
        """
        plan = FinalistPlan(
            context,
            self._queue,
            self._first,
            is_default_stored=read_simple_result(self._directory, DEFAULT) is not None,
            full_steps=self._full_steps,
            validation_count=self._validation_count,
            speed=self._speed,
        )
        default = self._first.default
        if context.feasibility.fit(default) is None and not context.clock.is_interrupted:
            context.reporter.note(
                f"The {default.title} default exceeds the memory budget or a constraint and is not trained"
            )
        context.run_plan(
            "finalists",
            plan,
            deadline_seconds=context.clock.deadlines.total_seconds,
            counts=lambda: (plan.finished_count, plan.planned_count),
        )


class FinalistPlan(Plan):
    """Trains the default, then its variant, then the first candidates of the ranking that there is time for.

    The default is trained under its number if it was screened, and under a key of its own if it is not in the search
    space. It counts as one of the configured number of finalists only where the ranking has it among them.
    All start early enough to leave time for the race.

    Args:
        context: The search.
        queue: The ranking of the candidates.
        first: What is trained before the candidates.
        is_default_stored: Whether an earlier session has trained the default under a key of its own.
        full_steps: The number of steps of a full training.
        validation_count: The number of validation samples.
        speed: The measured speed of the default's training; None if it was not measured.
    """

    def __init__(
        self,
        context: PhaseContext,
        queue: PromotionQueue,
        first: FirstTrainings,
        *,
        is_default_stored: bool,
        full_steps: int,
        validation_count: int,
        speed: TrainingSpeed | None,
    ) -> None:
        self._config = context.config
        self._study = context.study
        self._clock = context.clock
        self._jobs = context.jobs
        self._queue = queue
        self._default = default = first.default
        self._full_steps = full_steps
        screened = (result for result in self._study.results("one_shot") if result.architecture == default)
        score = next(screened, None)
        self._default_key: ModelKey = DefaultKey() if score is None else score.key
        self._is_default_possible = context.feasibility.fit(default) is not None and (
            score is None or context.objectives.is_eligible(score)
        )
        self._time = FullTrainingTime(
            full_steps, full_steps * self._config.recipe.batch_size / validation_count, speed, score
        )
        self._failed: set[ModelKey] = {
            CandidateKey(entry.trial) for entry in self._study.rejections if entry.stage == "full"
        }
        self._finished: set[ModelKey] = {result.key for result in self._study.results("full")}
        if is_default_stored:
            self._finished.add(DefaultKey())
        self._variant = first.variant
        if self._variant is not None and context.feasibility.fit(self._variant) is None:
            self._variant = None
        if self._variant is not None and context.recorder.reruns.get(self._variant, VARIANT) is not None:
            self._finished.add(VARIANT)
        self._tried = self._failed | self._finished

    @property
    def finished_count(self) -> int:
        """The number of full trainings that are finished."""
        return len(self._finished)

    @property
    def planned_count(self) -> int:
        """The number of full trainings that the configuration asks for."""
        ranking = [result.key for result in self._queue.promotion_order() if result.key not in self._failed]
        best = set(ranking[: self._config.search.finalists])
        first: set[ModelKey] = {self._default_key} if self._is_default_possible else set()
        if self._variant is not None and VARIANT not in self._failed:
            first.add(VARIANT)
        return len(best | first)

    def next_jobs(self) -> list[Job]:
        jobs: list[Job] = []
        while (job := self._next_job()) is not None:
            self._tried.add(job.key)
            jobs.append(job)
            if not self._config.deterministic:
                break
        return jobs

    def _next_job(self) -> Job | None:
        ranking = self._queue.promotion_order()
        if not ranking:
            return None  # nothing was scored; a default alone would be no result of a search
        deadlines = self._clock.deadlines
        has_race = self._config.search.rerun_seeds > 0
        room = self._clock.seconds_left(deadlines.finalists_seconds if has_race else deadlines.race_seconds)
        if self._is_default_possible and self._default_key not in self._tried:
            # The first training starts however long it takes: a search without the default has nothing to compare.
            if not self._tried or self._default_seconds(ranking) <= room * _TOLERANCE:
                job = self._job(self._default_key, self._default)
                if job is not None:
                    return job
        if not self._tried:
            # If no training can finish in time, the shortest one is started nevertheless.
            room = max(room, min(self._full_seconds(result) for result in ranking))
        if self._variant is not None and VARIANT not in self._tried and self._has_time_for_variant(ranking, room):
            job = self._job(VARIANT, self._variant)
            if job is not None:
                return job
        return self._best_fitting(ranking, room) or self._best_fitting(ranking, room * _TOLERANCE)

    def _has_time_for_variant(self, ranking: Sequence[Result], room: float) -> bool:
        """Return whether the variant can be trained, which takes as long as the default."""
        return bool(self._tried) and self._default_seconds(ranking) <= room * _TOLERANCE

    def _best_fitting(self, ranking: Sequence[Result], room: float) -> Job | None:
        """Return the training of the first candidate that is estimated to end in time, among those to train."""
        taken = 0
        for result in ranking:
            if taken == self._config.search.finalists:
                return None
            if result.key in self._tried:
                taken += result.key not in self._failed
            elif self._full_seconds(result) <= room:
                job = self._job(result.key, result.architecture)
                if job is not None:
                    return job
        return None

    def _job(self, key: ModelKey, architecture: Architecture) -> Job | None:
        return self._jobs.job(key, architecture, "full", self._full_steps)

    def _default_seconds(self, ranking: Sequence[Result]) -> float:
        finalists = ranking[: self._config.search.finalists]
        return self._time.of_default(max(self._full_seconds(result) for result in finalists))

    def _full_seconds(self, result: Result) -> float:
        """Return the estimated time of a candidate's full training."""
        scored, trained = self._study.result("one_shot", result.trial), self._study.result("short", result.trial)
        return self._time.of_candidate(scored, trained)

    def finished(self, result: Result) -> None:
        self._finished.add(result.key)

    def rejected(self, failure: Failure) -> None:
        self._failed.add(failure.job.key)

    def requeue(self, job: Job) -> None:
        self._tried.discard(job.key)
