"""Train the supernet, whose weights candidates are screened with."""

import math
from collections.abc import Callable
from dataclasses import replace

from nas.common.errors import BudgetError, StudyError
from nas.common.interrupt import Interrupted
from nas.common.units import format_bytes
from nas.execution.base import SupernetJob, SupernetProgress
from nas.execution.worker_setup import WorkerSetup
from nas.memory.prediction import MemoryModel
from nas.run.history import SUPERNET, TrainingName
from nas.run.phases.context import PhaseContext, PhaseWatch
from nas.run.progress_lines import supernet_line
from nas.run.time_plan import Speed, StepTimer, TimePlan
from nas.search.space import Architecture
from nas.training.checkpoint import weights_checksum
from nas.training.supernet_sampling import build_sampler


class SupernetPhase:
    """Trains the supernet within its fraction of the time, from its last checkpoint if one exists.

    Args:
        setup: The files of the supernet.
        memory: The memory predictions.
        plan: The times of the phases, which are reported after the first steps.
    """

    def __init__(self, setup: WorkerSetup, memory: MemoryModel, plan: TimePlan) -> None:
        self._setup = setup
        self._memory = memory
        self._plan = plan

    def run(self, context: PhaseContext) -> None:
        """Train the supernet, unless it is complete or scores depend on it.

        Raises:
            StudyError: If the file of a supernet that scores depend on is missing or was replaced.
            BudgetError: If no training step fits the memory budget.
            TrainingError: If it cannot be trained.
            Interrupted: If the user has interrupted the search and the workers were lost, so that nothing is saved
                after the last checkpoint.
        """
        if not self._is_done(context):
            self._train(context)
        if self._setup.supernet_path.exists():
            self._check_same(context)

    def _check_same(self, context: PhaseContext) -> None:
        """Check that the supernet is that of earlier scores, or record it before the first score.

        Raises:
            StudyError: If it is another one.
        """
        path, study, count = self._setup.supernet_path, context.study, context.study.count("one_shot")
        checksum = weights_checksum(path)
        if not count:
            study.set_supernet(checksum)
        elif study.supernet != checksum:
            raise StudyError(
                f"{path}: holds another supernet than the one that {count} scores were computed with; expected the "
                f"checksum {study.supernet}, got {checksum}; restore a copy of the file, or search in a new run "
                "directory (--run-dir)"
            )

    def _train(self, context: PhaseContext) -> None:
        clock = context.clock
        deadline = clock.end_of("supernet", clock.deadlines.supernet_seconds)
        total = context.config.supernet.steps
        timer, watch = StepTimer(), PhaseWatch(clock, "supernet", deadline)
        training = TrainingName(SUPERNET, SUPERNET, context.config.seed)

        def should_stop() -> bool:
            return clock.is_over(deadline) or clock.is_interrupted

        def on_progress(progress: SupernetProgress) -> None:
            context.study.check_lease()
            context.recorder.history.add_losses(training, progress.points)
            left = watch.left_seconds(progress.done, total)
            loss = f"loss {progress.loss:.3f}" if progress.done else ""
            context.reporter.progress("supernet", progress.done, total, loss, left_seconds=left)
            step_seconds = timer.seconds_per_step(progress.done)
            if step_seconds is not None:
                self._report_times(context, step_seconds, total - progress.done, clock.seconds_left(deadline))

        def on_lost(reason: str) -> None:
            if clock.is_interrupted:
                raise Interrupted
            context.reporter.note(f"Supernet: {reason}; resuming from its last checkpoint")

        job = _SupernetPlanner(context, self._memory).job(should_stop)
        if not math.isinf(deadline):
            job = replace(job, seconds_left=clock.seconds_left(deadline))
        job = replace(job, recipe=context.recorder.recipe.setting, space=context.config.space)
        done, process_count = context.scheduler.train_supernet(
            job,
            process_count=context.config.supernet.architectures_per_step,
            should_stop=should_stop,
            on_progress=on_progress,
            on_lost=on_lost,
        )
        line = supernet_line(
            done, total, process_count, clock.account.spent_seconds, is_interrupted=clock.is_interrupted
        )
        context.reporter.note(line)

    def _report_times(self, context: PhaseContext, step_seconds: float, steps_left: int, seconds_left: float) -> None:
        most = context.config.supernet.architectures_per_step
        process_count = max(min(context.scheduler.slot_count, most), 1)
        speed = Speed(step_seconds, process_count, steps_left, context.clock.account.spent_seconds, seconds_left)
        for line in self._plan.lines(speed):
            context.reporter.note(line)
        forecast = self._plan.forecast(speed, context.clock.account.phases.get("supernet", 0.0))
        context.clock.forecast = forecast or context.clock.forecast

    def _is_done(self, context: PhaseContext) -> bool:
        """Return whether there is nothing to train.

        A supernet that was cut short by its part of the time is trained on, unless scores depend on it.
        """
        count = context.study.count("one_shot")
        if self._setup.supernet_path.exists():
            return bool(count) or not self._setup.checkpoint_path.exists()
        if count:
            raise StudyError(
                f"{self._setup.supernet_path}: is missing; {count} scores were computed with it and are not comparable "
                "with those of another supernet; restore a copy of the file, or search in a new run directory "
                "(--run-dir)"
            )
        return False


class _SupernetPlanner:
    """Decides which architectures the supernet's training may sample, since workers cannot predict memory.

    Args:
        context: The search.
        memory: The memory predictions.
    """

    def __init__(self, context: PhaseContext, memory: MemoryModel) -> None:
        self._config = context.config
        self._feasibility = context.feasibility
        self._memory = memory
        self._budget_bytes = context.config.budget.memory_bytes
        # Every size only adds tensors and parameters: where the largest architectures fit, all do.
        self._largest = context.config.space.largest_of_each_kind
        self._largest_bytes = max(memory.predict_supernet(entry).peak_bytes for entry in self._largest)
        self._peaks: dict[Architecture, int] = {}
        self._parts: dict[Architecture, int] = {}

    def job(self, should_stop: Callable[[], bool]) -> SupernetJob:
        """Return the job of the whole training.

        Args:
            should_stop: Function that is called for every step; a training that is to stop at once needs no more.

        Raises:
            BudgetError: If no training step fits the memory budget.
        """
        config = self._config
        if self._largest_bytes <= self._budget_bytes and all(map(self._feasibility.fits, self._largest)):
            return SupernetJob(None, {}, self._largest_bytes)
        sampler = build_sampler(
            config.supernet.sampling,
            space=config.space,
            count=config.supernet.architectures_per_step,
            seed=config.seed,
            is_feasible=self._is_feasible,
        )
        for step in range(config.supernet.steps):
            try:
                sampler.step(step)
            except BudgetError as error:
                raise self._explained(error) from error
            if should_stop():
                break
        return SupernetJob(frozenset(self._peaks), self._parts, max(self._peaks.values()))

    def _is_feasible(self, architecture: Architecture) -> bool:
        if architecture in self._peaks:
            return True
        if self._largest_bytes <= self._budget_bytes:  # only constraints can exclude an architecture
            if self._feasibility.fits(architecture):
                self._peaks[architecture] = self._largest_bytes
            return architecture in self._peaks
        fit = self._feasibility.fit(architecture)
        if fit is None:
            return False
        count = fit.micro_batches
        peak_bytes = self._memory.predict_supernet(architecture, micro_batches=count).peak_bytes
        if peak_bytes > self._budget_bytes and self._config.budget.oversized == "accumulate":
            # With the optimiser state of all weights, a step may need smaller parts than a candidate's training.
            count = self._memory.min_micro_batches(architecture, self._budget_bytes, in_supernet=True) or count
            peak_bytes = self._memory.predict_supernet(architecture, micro_batches=count).peak_bytes
        if peak_bytes > self._budget_bytes:
            return False
        self._peaks[architecture], self._parts[architecture] = peak_bytes, count
        return True

    def _explained(self, error: BudgetError) -> BudgetError:
        """Return the reason why the supernet cannot be trained, where it is not that of the candidates."""
        smallest, accumulates = self._config.space.smallest, self._config.budget.oversized == "accumulate"
        parts = self._config.recipe.batch_size if accumulates else 1
        needed = self._memory.predict_supernet(smallest, micro_batches=parts).peak_bytes
        if needed <= self._budget_bytes:
            return error
        hint = "" if accumulates else "; budget.oversized: accumulate needs less"
        return BudgetError(
            f"memory budget {format_bytes(self._budget_bytes)}: no step of the supernet fits in addition to the "
            f"weights that all architectures share; with the smallest ({smallest}) it needs "
            f"{format_bytes(needed)}{hint}"
        )
