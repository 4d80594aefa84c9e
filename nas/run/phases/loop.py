"""The phases of a search, one after the other, from the linear classifier to the race and the distillation.

Every decision follows from the configuration and the study, so that a killed search continues where it was.
"""

from dataclasses import replace
from functools import partial

from nas.common.interrupt import Interruption
from nas.common.progress import Reporter
from nas.config.schema import Config
from nas.config.search_schema import objectives_of
from nas.execution.base import Executor
from nas.execution.worker_setup import WorkerSetup
from nas.memory.calibration import PeakCalibration
from nas.run.callbacks import CallbackList
from nas.run.checks import check_time
from nas.run.distilled import with_distilled
from nas.run.feasibility import Feasibility
from nas.run.forecast import EVALUATED_MODELS, budget_forecast, plan_forecast
from nas.run.html_report.job_times import JobLog
from nas.run.html_report.summary import write_plan
from nas.run.phase_plan import PhasePlan, plan_phases
from nas.run.phases.arm_trial import ArmTrial, ArmTrialPhase
from nas.run.phases.bilinear import BilinearPhase
from nas.run.phases.candidates import CandidatePhase
from nas.run.phases.context import PhaseContext, SearchClock
from nas.run.phases.finalists import FinalistPhase, FirstTrainings
from nas.run.phases.linear import LinearPhase
from nas.run.phases.race import Outcome, RacePhase
from nas.run.phases.race_plan import ReadScores
from nas.run.phases.readouts import ChosenReadouts
from nas.run.phases.recipe import RecipePhase
from nas.run.phases.scheduling import build_scheduler
from nas.run.phases.speed import SpeedPhase
from nas.run.phases.supernet import SupernetPhase
from nas.run.prepare import SearchContext
from nas.run.progress_lines import plan_lines, planned_text
from nas.run.recording import ResultRecorder
from nas.run.roles import BILINEAR, LINEAR
from nas.run.select import latest_results
from nas.run.speed import TrainingSpeed
from nas.run.time_budget import Deadlines, TimeAccount
from nas.run.time_plan import TimePlan
from nas.run.validation_scores import validation_scores
from nas.search.objectives import pick
from nas.search.space import Architecture
from nas.search.trial import Result
from nas.storage.study import Study
from nas.training.trainer import full_step_count

_LEFT_OUT = (
    "Retrieval: the linear and the bilinear classifier and the ensemble are left out, since they need classes; the "
    "best architecture is compared with the default"
)


class Search:
    """One session of a search, which starts it or resumes it.

    Args:
        config: The configuration of the search.
        prepared: The encoders, features and memory predictions.
        setup: The set-up of the workers.
        study: The persistent record of all candidates.
        executor: The executor of jobs.
        account: The running time of the search over all sessions.
        interruption: The user's request to end the search.
        reporter: The receiver of messages.
    """

    def __init__(
        self,
        *,
        config: Config,
        prepared: SearchContext,
        setup: WorkerSetup,
        study: Study,
        executor: Executor,
        account: TimeAccount,
        interruption: Interruption,
        reporter: Reporter,
    ) -> None:
        self._prepared = prepared
        self._setup = setup
        calibration = PeakCalibration()
        recorder = ResultRecorder(
            config,
            setup.run_directory,
            study=study,
            calibration=calibration,
            reporter=reporter,
            costs=prepared.memory,
        )
        executor.follow_losses(recorder.history.receiver)
        feasibility = Feasibility(
            memory=prepared.memory,
            budget=config.budget,
            # A deterministic search must not depend on measurements.
            correction=None if config.deterministic else calibration,
            study=study,
            largest=config.space.largest_of_each_kind,
            constraints=config.search.constraints,
        )
        self._context = PhaseContext(
            config=config,
            study=study,
            scheduler=build_scheduler(
                executor,
                study,
                recorder,
                feasibility,
                budget_bytes=config.budget.memory_bytes,
                idle_bytes=prepared.memory.idle_bytes,
            ),
            feasibility=feasibility,
            objectives=objectives_of(config.search, prepared.memory),
            recorder=recorder,
            clock=SearchClock(account, Deadlines.of_fractions(config.budget), interruption),
            reporter=reporter,
        )
        self._context.scheduler.watch(JobLog(setup.run_directory).add)
        self._config = config  # whose space is that of the supernet; the context's may become a part of it
        self._default = prepared.default
        self._variant: Architecture | None = None
        self._initial = config.search.initial_architectures
        self._speed: TrainingSpeed | None = None
        self._full_steps = full_step_count(config.recipe, len(prepared.store.splits["train"]))
        self._evaluation_seconds = EVALUATED_MODELS * prepared.evaluation_seconds
        if config.budget.time_seconds is not None:
            self._context.clock.forecast = budget_forecast(config.budget.time_seconds, self._evaluation_seconds)

    def send_events(self, callbacks: CallbackList) -> None:
        """Send results, failures and learning curves to callbacks.

        Args:
            callbacks: The receiver.
        """
        self._context.recorder.callbacks = callbacks

    def run(self, *, compares: bool = True) -> Outcome:
        """Search until the budget is spent, nothing is left to do, or the user interrupts.

        Args:
            compares: Whether the finalists race against the default and the linear classifier.

        Raises:
            TrainingError: If training fails the same way repeatedly.
            StudyError: If another driver has taken the study over.
        """
        account = self._context.clock.account
        try:
            linear = None if self._config.data.is_retrieval else self._solve_linear()
            context = self._context
            if linear is None and self._config.data.is_retrieval:
                context.reporter.note(_LEFT_OUT)
            solved = {} if linear is None else {LINEAR: linear}
            bilinear = None if linear is None else self._solve_bilinear(linear)
            if bilinear is not None:
                solved[BILINEAR] = bilinear
            self._divide_time()
            self._tune_recipe()
            account.start("supernet")
            validation_count = len(self._prepared.store.splits["validation"])
            SupernetPhase(self._setup, self._prepared.memory, self._time_plan(validation_count)).run(context)
            account.start("candidates")
            queue = CandidatePhase(self._initial_architectures()).run(context)
            account.start("finalists")
            FinalistPhase(
                queue,
                FirstTrainings(self._default, self._variant),
                self._setup.run_directory,
                full_steps=self._full_steps,
                validation_count=validation_count,
                speed=self._speed,
            ).run(context)
        finally:
            account.stop()
            self._context.recorder.write_results()
        size = self._prepared.memory.parameter_count
        best = pick(latest_results(context.study), context.objectives, "best", size=size)
        if best is None or context.clock.is_interrupted or not compares:
            return Outcome(best, solved)
        if validation_count < 2:
            return Outcome(best, solved)
        race = RacePhase(
            self._setup.run_directory, self._default, full_steps=self._full_steps, read_scores=self._read_scores
        )
        try:
            account.start("race")
            outcome = race.run(context, best, solved)
            return self._with_distilled(outcome) if context.config.search.distill else outcome
        finally:
            account.stop()

    @property
    def _read_scores(self) -> ReadScores:
        return partial(
            validation_scores, directory=self._setup.run_directory, config=self._config, prepared=self._prepared
        )

    def _with_distilled(self, outcome: Outcome) -> Outcome:
        """Choose the ensemble, distil it, and return the outcome with both."""
        return with_distilled(
            outcome, self._context, self._config, self._prepared, full_steps=self._full_steps, read=self._read_scores
        )

    def try_default(self, seeds: int, *, seconds: float) -> ArmTrial:
        """Solve the linear classifier and train the family's default: what the arms of a search are compared by.

        Args:
            seeds: The number of seeds of the default.
            seconds: The time for it; infinite without a time budget.

        Returns:
            The results so far.

        Raises:
            TrainingError: If training fails the same way repeatedly.
        """
        account = self._context.clock.account
        deadline_seconds = account.spent_seconds + seconds
        try:
            linear = self._solve_linear()
            account.start("arm")
            phase = ArmTrialPhase(self._default, full_steps=self._full_steps, seeds=seeds)
            return ArmTrial(phase.run(self._context, deadline_seconds), linear)
        finally:
            account.stop()

    def _solve_linear(self) -> Result | None:
        """Solve the linear classifier, and give the default and the space of the search the readouts that it chose."""
        context = self._context
        context.clock.account.start("linear")
        linear = LinearPhase(self._setup, self._prepared).run(context)
        if linear is not None or not context.clock.is_interrupted:
            chosen = ChosenReadouts.by_linear(context.config, None if linear is None else linear.architecture)
            if linear is not None:
                chosen.report(context.config, context.reporter)
            self._context = replace(context, config=chosen.config(context.config))
            self._default = chosen.architecture(self._default)
            self._variant = chosen.variant(self._default, self._config.space)
            self._initial = tuple(map(chosen.architecture, self._initial))
        return linear

    def _solve_bilinear(self, linear: Result) -> Result | None:
        self._context.clock.account.start("bilinear")
        return BilinearPhase(self._setup, self._prepared, linear).run(self._context)

    def _divide_time(self) -> None:
        """Divide a time budget among the phases, by the speed of the workers, before anything is trained.

        Raises:
            BudgetError: If it does not hold a full training of the default.
        """
        context, clock = self._context, self._context.clock
        seconds = context.config.budget.time_seconds
        if seconds is None:
            return
        clock.account.start("speed")
        directory = self._setup.run_directory
        self._speed = SpeedPhase(self._default, directory).run(context)
        if self._speed is None:
            return
        clock.account.stop()  # the time of this phase is known now
        if not context.study.count("one_shot") and "arm" not in clock.account.phases:
            check_time(
                context.config,
                self._speed,
                directory,
                full_steps=self._full_steps,
                spent_seconds=self._seconds_before_training,
            )
        plan = self._plan(self._speed)
        for line in plan_lines(plan, seconds):
            context.reporter.note(line)

    def _plan(self, speed: TrainingSpeed) -> PhasePlan:
        """Plan the phases with the recipe as it is chosen until now."""
        context = self._context
        plan = plan_phases(
            context.config,
            speed,
            full_steps=self._full_steps,
            tuned_steps=context.recorder.recipe.setting.full_steps(self._full_steps),
            spent_seconds=self._seconds_before_training,
            first_count=self._first_count,
        )
        context.clock.deadlines = plan.deadlines
        context.clock.forecast = plan_forecast(
            plan, self._evaluation_seconds, fills=context.config.budget.trials is None
        )
        write_plan(self._setup.run_directory, plan.seconds)
        return plan

    def _time_plan(self, validation_count: int) -> TimePlan:
        return TimePlan(
            self._context.config,
            full_steps=self._full_steps,
            validation_count=validation_count,
            evaluation_seconds=self._evaluation_seconds,
            first_count=self._first_count,
        )

    @property
    def _first_count(self) -> int:
        """The number of full trainings besides those of the finalists."""
        return 1 if self._variant is None else 2

    @property
    def _seconds_before_training(self) -> float:
        """The time that was spent before the phases that a time budget is divided among."""
        phases = self._context.clock.account.phases
        return sum(phases.get(name, 0.0) for name in ("linear", "bilinear", "speed", "arm"))

    def _tune_recipe(self) -> None:
        context, count = self._context, self._full_steps
        if not context.config.budget.recipe_fraction:
            return
        context.clock.account.start("recipe")
        RecipePhase(self._default, full_steps=count).run(context)
        tuned = context.recorder.recipe.setting.full_steps(count)
        if self._speed is not None and tuned != count:
            plan = self._plan(self._speed)
            context.reporter.note(f"Plan with full trainings of {tuned:,} steps: {planned_text(plan.seconds)}")
        self._full_steps = tuned

    def _initial_architectures(self) -> list[Architecture]:
        """Return the first proposals: default, smallest, largest that fits, and those of the search file."""
        space = self._context.config.space
        largest = space.largest_feasible(self._context.feasibility.fits) or space.largest
        return [self._default, space.smallest, largest, *self._initial]

    @property
    def calibration_note(self) -> str | None:
        """The line about the accuracy of the memory predictions; None where no peak can be compared with them."""
        return self._context.recorder.calibration_note
