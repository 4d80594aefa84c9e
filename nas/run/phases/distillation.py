"""Distil the ensemble of a search into its best member: one model that learns from the labels and from the ensemble.

The ensemble is chosen after the race. Its logits for the training samples are computed once, from the weights of its
members, and kept. The architecture of its first member that is trained at all is then trained on them from fresh
weights, with the seeds of the race.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nas.common.units import format_bytes, format_seconds
from nas.data.features.store import FeatureStore
from nas.execution.plan import Plan
from nas.execution.special_jobs import read_teacher
from nas.execution.worker_setup import full_weights_path, teacher_path
from nas.run.ensemble import Ensemble
from nas.run.phases.context import PhaseContext
from nas.run.phases.race_plan import ReadScores, joined
from nas.run.progress_lines import model_name
from nas.search.distillation import SEEDS, teacher_digest
from nas.search.keys import DistilledKey, RerunKey, SeededKey, TeacherKey
from nas.search.racing import SeedScores
from nas.search.trial import Failure, Job, Result
from nas.training.kept_logits import MAX_LOGITS_BYTES, logits_bytes


@dataclass(frozen=True)
class Distilled:
    """A model that was distilled from the ensemble of a search.

    Args:
        trainings: Its trainings, in the order of their seeds; at least one.
        scores: Their scores.
    """

    trainings: Sequence[Result]
    scores: SeedScores


class DistillationPhase:
    """Trains the distilled model with some seeds, each unless an earlier session has.

    Args:
        directory: The run directory.
        store: The features of the search.
        ensemble: The ensemble.
        full_steps: The number of steps of a full training.
        read_scores: Function that returns the scores of one training.
    """

    def __init__(
        self,
        directory: Path,
        store: FeatureStore,
        ensemble: Ensemble,
        *,
        full_steps: int,
        read_scores: ReadScores,
    ) -> None:
        self._directory = directory
        self._store = store
        self._ensemble = ensemble
        self._full_steps = full_steps
        self._read_scores = read_scores
        self._digest = teacher_digest(ensemble.member_dicts())

    def run(self, context: PhaseContext) -> Distilled | None:
        """Train what has not been trained, until the time is over.

        Args:
            context: The search.

        Returns:
            The distilled model; None if it is left out, which is shown, or no training has ended.

        Raises:
            StudyError: If a stored training or its logits are damaged.
            TrainingError: If training fails the same way repeatedly.
        """
        student = student_of(self._ensemble)
        reason = "no member of the ensemble is trained" if student is None else self._why_not(context, student)
        if student is None or reason:
            context.reporter.note(f"Left out: distillation: {reason}")
            return None
        plan = DistillationPlan(
            context,
            self._ensemble,
            student,
            full_steps=self._full_steps,
            shape=self._shape,
            is_taught=self._is_taught,
        )
        if plan.missing:
            context.reporter.note(
                f"Distillation: {model_name(student.key)} learns from the ensemble {self._ensemble.text}"
            )
            context.run_plan(
                "distillation",
                plan,
                deadline_seconds=context.clock.deadlines.total_seconds,
                counts=lambda: (SEEDS - len(plan.missing), SEEDS),
            )
        trainings = plan.trainings
        return Distilled(trainings, joined([self._read_scores(result) for result in trainings])) if trainings else None

    @property
    def _shape(self) -> tuple[int, int]:
        return len(self._store.splits["train"]), len(self._store.class_names)

    @property
    def _is_taught(self) -> bool:
        path = teacher_path(self._directory, self._digest)
        return path.exists() and read_teacher(path, self._digest, self._shape) is not None

    def _why_not(self, context: PhaseContext, student: Result) -> str:
        """Return why there is no distillation, as a clause; empty if there is one."""
        if not logits_bytes(*self._shape):
            return f"the probabilities of all training samples take more than {format_bytes(MAX_LOGITS_BYTES)}"
        clock = context.clock
        room = clock.seconds_left(clock.deadlines.total_seconds)
        needed = student.longest_seconds
        if needed > room and not context.recorder.distilled.results():
            return f"a training takes {format_seconds(needed)}, and {format_seconds(max(room, 0.0))} are left"
        return ""


def student_of(ensemble: Ensemble) -> Result | None:
    """Return the training of the first member that is no solved classifier; None if all are.

    Args:
        ensemble: The ensemble, whose first member has the largest weight.
    """
    results = [member.result for member in ensemble.members]
    return next((result for result in results if isinstance(result.key, SeededKey | RerunKey)), None)


class DistillationPlan(Plan):
    """Computes what the ensemble teaches, then trains the student with several seeds.

    Args:
        context: The search.
        ensemble: The ensemble.
        student: A full training of the student's architecture.
        full_steps: The number of steps of a full training.
        shape: The numbers of training samples and classes.
        is_taught: Whether an earlier session has computed what the ensemble teaches.
    """

    def __init__(
        self,
        context: PhaseContext,
        ensemble: Ensemble,
        student: Result,
        *,
        full_steps: int,
        shape: tuple[int, int],
        is_taught: bool,
    ) -> None:
        self._context = context
        self._ensemble = ensemble
        self._student = student
        self._full_steps = full_steps
        self._target_bytes = 4 * math.prod(shape)
        self._is_taught = is_taught
        self._digest = teacher_digest(ensemble.member_dicts())
        self._tried: set[int] = {result.key.number for result in self.trainings if isinstance(result.key, DistilledKey)}
        self._is_teaching = False

    @property
    def trainings(self) -> list[Result]:
        """The finished trainings of the student, in the order of their seeds."""
        store = self._context.recorder.distilled
        found = (store.get(self._student.architecture, DistilledKey(self._digest, number)) for number in range(SEEDS))
        return [result for result in found if result is not None]

    @property
    def missing(self) -> list[int]:
        """The numbers of the trainings that have no result."""
        known = {result.key for result in self.trainings}
        return [number for number in range(SEEDS) if DistilledKey(self._digest, number) not in known]

    def next_jobs(self) -> list[Job]:
        if not self._is_taught:
            job = None if self._is_teaching else self._teacher_job()
            self._is_teaching = True
            return [] if job is None else [job]
        clock = self._context.clock
        numbers = [number for number in range(SEEDS) if number not in self._tried]
        if self._student.longest_seconds > clock.seconds_left(clock.deadlines.total_seconds):
            return []
        self._tried.update(numbers)
        jobs = (self._training_job(number) for number in numbers)
        return [job for job in jobs if job is not None]

    def _teacher_job(self) -> Job | None:
        """Return the job that computes the logits of all members, as large as the training of the largest."""
        results = [member.result for member in self._ensemble.members]
        trained = [result for result in results if isinstance(result.key, SeededKey | RerunKey)]
        largest = max(trained, key=lambda result: result.predicted_peak_bytes)
        job = self._context.jobs.job(TeacherKey(self._digest), largest.architecture, "full", 0)
        if job is None:
            return None
        return self._with_targets(
            replace(
                job,
                taught_by=tuple((training_of(member.result), member.weight) for member in self._ensemble.members),
                inputs=tuple(self._relative(full_weights_path(self._directory, result.key)) for result in results),
            ),
            copies=len(results) + 2,
        )

    def _training_job(self, number: int) -> Job | None:
        key = DistilledKey(self._digest, number)
        job = self._context.jobs.job(key, self._student.architecture, "full", self._full_steps)
        if job is None:
            return None
        path = teacher_path(self._directory, self._digest)
        return self._with_targets(replace(job, inputs=(self._relative(path),)), copies=2)

    @property
    def _directory(self) -> Path:
        return self._context.recorder.directory

    def _relative(self, path: Path) -> str:
        return str(path.relative_to(self._directory))

    def _with_targets(self, job: Job, copies: int) -> Job | None:
        """Return a job that also holds the logits of all training samples several times; None if it does not fit."""
        job = replace(job, predicted_peak_bytes=job.predicted_peak_bytes + copies * self._target_bytes)
        return job if job.reserved_bytes <= self._context.config.budget.memory_bytes else None

    def finished(self, result: Result) -> None:
        self._is_taught |= isinstance(result.key, TeacherKey)

    def rejected(self, failure: Failure) -> None:
        del failure  # the other seed does; without a teacher there is no distilled model

    def requeue(self, job: Job) -> None:
        if isinstance(job.key, DistilledKey):
            self._tried.discard(job.key.number)
        else:
            self._is_teaching = False


def training_of(result: Result) -> Job:
    """Return a finished training as a job, by which its weights are known."""
    return Job(
        result.key, result.architecture, result.stage, result.step_count, result.seed, result.predicted_peak_bytes
    )
