"""Train the best candidates completely, from fresh weights."""

from nas.execution.plan import Plan
from nas.run.phases.context import PhaseContext
from nas.search.promotion import PromotionQueue
from nas.search.trial import Failure, Job, Result

_STEP_PER_EVALUATION = 3  # a training step costs about three forward passes


class FinalistPhase:
    """Trains the finalists.

    Args:
        queue: The ranking of the candidates.
        full_steps: The number of steps of a full training.
        validation_count: The number of validation samples.
    """

    def __init__(self, queue: PromotionQueue, *, full_steps: int, validation_count: int) -> None:
        self._queue = queue
        self._full_steps = full_steps
        self._validation_count = validation_count

    def run(self, context: PhaseContext) -> None:
        """Train the finalists until the time budget is spent.

        Raises:
            TrainingError: If training fails the same way repeatedly.
        """
        plan = FinalistPlan(context, self._queue, full_steps=self._full_steps, validation_count=self._validation_count)
        context.run_plan(
            "finalists",
            plan,
            deadline_seconds=context.clock.deadlines.total_seconds,
            counts=lambda: (context.study.count("full"), context.config.search.finalists),
        )


class FinalistPlan(Plan):
    """Trains the first candidates of the ranking that there is time for, as many as configured.

    Args:
        context: The search.
        queue: The ranking of the candidates.
        full_steps: The number of steps of a full training.
        validation_count: The number of validation samples.
    """

    def __init__(self, context: PhaseContext, queue: PromotionQueue, *, full_steps: int, validation_count: int) -> None:
        self._config = context.config
        self._study = context.study
        self._clock = context.clock
        self._jobs = context.jobs
        self._queue = queue
        self._full_steps = full_steps
        self._validation_count = validation_count
        failed = {entry.trial for entry in self._study.rejections if entry.stage == "full"}
        self._tried = failed | {result.trial for result in self._study.results("full")}
        self._failed = failed

    def next_jobs(self) -> list[Job]:
        jobs: list[Job] = []
        while (job := self._next_job()) is not None:
            self._tried.add(job.trial)
            jobs.append(job)
            if not self._config.deterministic:
                break
        return jobs

    def _next_job(self) -> Job | None:
        ranking = self._queue.promotion_order()
        room = self._clock.seconds_left(self._clock.deadlines.total_seconds)
        if not self._tried and ranking:
            # If no training can finish in time, the shortest one is started nevertheless.
            room = max(room, min(self._full_seconds(result) for result in ranking))
        taken = 0
        for result in ranking:
            if taken == self._config.search.finalists:
                return None
            if result.trial in self._tried:
                taken += result.trial not in self._failed
            elif self._full_seconds(result) <= room:
                job = self._jobs.job(result.key, result.architecture, "full", self._full_steps)
                if job is not None:
                    return job
        return None

    def _full_seconds(self, result: Result) -> float:
        """Estimate the time of a full training, from the short training of the candidate or its evaluation."""
        trained, scored = self._study.result("short", result.trial), self._study.result("one_shot", result.trial)
        evaluation = 0.0 if scored is None else scored.seconds
        if trained is not None:
            return evaluation + self._full_steps * max(trained.seconds - evaluation, 0.0) / trained.step_count
        steps = self._full_steps * self._config.recipe.batch_size / self._validation_count
        return evaluation + steps * _STEP_PER_EVALUATION * evaluation

    def finished(self, result: Result) -> None:
        del result  # the study has it

    def rejected(self, failure: Failure) -> None:
        self._failed.add(failure.job.trial)

    def requeue(self, job: Job) -> None:
        self._tried.discard(job.trial)
