"""A search from beginning to end: supernet, candidates, finalists, and the comparison with the family's default.

The only module that knows strategies, executors and the study together. Everything that it decides follows from the
configuration and from what the study holds, so a killed search goes on from there.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nas.common.errors import BudgetError, StudyError
from nas.common.files import write_atomically
from nas.common.interrupt import Interruption
from nas.common.progress import Reporter
from nas.common.units import format_bytes, format_seconds
from nas.config.schema import Config, objectives_of
from nas.execution.base import Executor, SupernetJob, SupernetProgress
from nas.execution.failure_policy import FailurePolicy, Verdict
from nas.execution.plan import Plan
from nas.execution.scheduler import JobScheduler
from nas.execution.worker_setup import WorkerSetup
from nas.memory.calibration import PeakCalibration
from nas.run.feasibility import Feasibility
from nas.run.phases import CandidatePlan, FinalistPlan, JobMaker, ListedPlan
from nas.run.prepare import SearchContext
from nas.run.reruns import CONFIRMATION, RerunStore
from nas.run.results_csv import write_results
from nas.run.time_budget import Deadlines, TimeAccount
from nas.search.keys import CandidateKey, DefaultKey, ModelKey, RerunKey, Role
from nas.search.objectives import pick
from nas.search.promotion import PromotionQueue
from nas.search.space import Architecture
from nas.search.strategies.registry import build_strategy
from nas.search.trial import STAGES, Failure, Job, Result, Stage
from nas.storage.study import Study
from nas.training.supernet_sampling import build_sampler
from nas.training.trainer import full_step_count

_RESULTS_SECONDS = 5.0
_RESULTS_SHARE = 20  # writing them takes at most this part of the time


@dataclass(frozen=True)
class Outcome:
    """What a search came to.

    Args:
        best: The best full training on validation; None if none was finished.
        default: The family's default, trained the same way; None if it cannot fit, fails, or has nothing to be compared
            with.
        best_again: The best, trained with further seeds.
        default_again: The default, likewise.
    """

    best: Result | None
    default: Result | None
    best_again: Sequence[Result] = ()
    default_again: Sequence[Result] = ()


class Search:
    """One run of a search, or the continuation of one.

    Args:
        config: What to search.
        prepared: Encoders, features, memory predictions.
        setup: What the workers were given.
        study: Of the run directory.
        executor: Runs jobs.
        account: Running time of the run.
        interruption: Whether somebody wants it to end.
        reporter: Shows what happens.
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
        self.config = config
        self.prepared = prepared
        self.setup = setup
        self.study = study
        self.executor = executor
        self.account = account
        self.interruption = interruption
        self.reporter = reporter
        self.deadlines = Deadlines(config.budget)
        self.correction = PeakCalibration()
        self._has_measured_peaks = False
        self._best: dict[Stage, Result] = {}
        for stage in STAGES:
            for result in study.results(stage):
                self._learn(result)
        self.feasibility = Feasibility(
            memory=prepared.memory,
            budget=config.budget,
            # A deterministic search lets nothing measured play a part.
            correction=None if config.deterministic else self.correction,
            study=study,
            largest=config.space.largest,
            constraints=config.search.constraints,
        )
        self.objectives = objectives_of(config.search, prepared.memory)
        self._jobs = JobMaker(config, self.feasibility)
        self._policy = FailurePolicy(
            was_alone=study.was_out_of_memory, try_alone=study.mark_out_of_memory, record=self._record_failure
        )
        self._dispatcher = JobScheduler(
            executor=executor,
            budget_bytes=config.budget.memory_bytes,
            idle_bytes=prepared.memory.idle_bytes,
            policy=self._policy,
            runs_alone=study.was_out_of_memory,
            take=self._take,
            show=self._show_failure,
            now=time.monotonic,
        )
        self._full_steps = full_step_count(config.recipe, len(prepared.store.splits["train"]))
        self._results_due_at = -math.inf
        self._default_has_failed = False
        self._repetitions = RerunStore(setup.run_directory / CONFIRMATION)

    def run(self, *, compares: bool = True) -> Outcome:
        """Search until the budget is spent, nothing is left to do, or somebody interrupts.

        Args:
            compares: Whether the best is compared with the default, and both trained with more seeds.

        Raises:
            TrainingError: If training fails the same way again and again.
            StudyError: If another driver has taken the study over.
        """
        try:
            self.account.start("supernet")
            self._train_supernet()
            self.account.start("candidates")
            ladder = self._run_candidates()
            self.account.start("finalists")
            self._run_finalists(ladder)
        finally:
            self.account.stop()
            self._write_results()
        best = pick(self.study.results("full"), self.objectives, "best", size=self.prepared.memory.parameter_count)
        if best is None or self.interruption.is_requested or not compares:
            return Outcome(best=best, default=None)
        default = self._train_default()
        self._train_again({"best": best} if default is None else {"best": best, "default": default})
        return Outcome(
            best=best,
            default=default,
            best_again=self._again(best),
            default_again=() if default is None else self._again(default),
        )

    # Supernet

    def _train_supernet(self) -> None:
        # A supernet cut short by its share of the time goes on with more time, unless scores depend on it already.
        is_there = self.setup.supernet_path.exists()
        if is_there and (self.study.count("one_shot") or not self.setup.checkpoint_path.exists()):
            return
        if count := self.study.count("one_shot"):
            raise StudyError(
                f"{self.setup.supernet_path}: is missing; {count} scores were made with it, which another would not "
                "be comparable with; put back a copy of the file, or search in a new run directory (--run-dir)"
            )

        def should_stop() -> bool:
            self.account.tick()
            is_late = self.account.spent_seconds >= self.deadlines.supernet_seconds
            return is_late or self.interruption.is_requested

        total = self.config.supernet.steps
        order = self._supernet_order(should_stop)
        if not math.isinf(self.deadlines.supernet_seconds):
            seconds_left = self.deadlines.supernet_seconds - self.account.spent_seconds
            order = replace(order, deadline=time.time() + seconds_left)

        def on_progress(progress: SupernetProgress) -> None:
            self.study.check_lease()
            text = f"loss {progress.loss:.3f}{self._time_left_text()}"
            self.reporter.progress("supernet", progress.done, total, text)

        done, process_count = self._dispatcher.train_supernet(
            order,
            process_count=self.config.supernet.architectures_per_step,
            should_stop=should_stop,
            on_progress=on_progress,
            on_lost=lambda reason: self.reporter.note(f"supernet: {reason}; it goes on from its last checkpoint"),
        )
        ended = "" if done == total else f", ended early (of {total} steps)"
        shared = f" by {process_count} processes" if process_count > 1 else ""
        self.reporter.note(f"supernet: {done} steps{shared}, {format_seconds(self.account.spent_seconds)} spent{ended}")

    def _supernet_order(self, should_stop: Callable[[], bool]) -> SupernetJob:
        """What fits, of everything that the training will ask for: workers cannot predict.

        Args:
            should_stop: Asked every step; of a training that is to stop at once, nothing more has to be known.
        """
        config, memory = self.config, self.prepared.memory
        budget_bytes = config.budget.memory_bytes
        # Every gene only adds tensors and parameters, so where the largest fits, all do.
        largest_bytes = memory.predict_supernet(config.space.largest).peak_bytes
        if largest_bytes <= budget_bytes and self.feasibility.fits(config.space.largest):
            return SupernetJob(None, {}, largest_bytes)
        only_bounds_matter = largest_bytes <= budget_bytes
        peaks: dict[Architecture, int] = {}
        parts: dict[Architecture, int] = {}

        def is_feasible(architecture: Architecture) -> bool:
            if architecture in peaks:
                return True
            if only_bounds_matter:
                if self.feasibility.fits(architecture):
                    peaks[architecture] = largest_bytes
                return architecture in peaks
            fit = self.feasibility.fit(architecture)
            if fit is None:
                return False
            count = fit.micro_batches
            peak_bytes = memory.predict_supernet(architecture, micro_batches=count).peak_bytes
            if peak_bytes > budget_bytes and config.budget.oversized == "accumulate":
                # With all weights' optimiser state, a step of the supernet may need smaller parts than a candidate's.
                count = memory.min_micro_batches(architecture, budget_bytes, in_supernet=True) or count
                peak_bytes = memory.predict_supernet(architecture, micro_batches=count).peak_bytes
            if peak_bytes > budget_bytes:
                return False
            peaks[architecture], parts[architecture] = peak_bytes, count
            return True

        sampler = build_sampler(
            config.supernet.sampling,
            space=config.space,
            count=config.supernet.architectures_per_step,
            seed=config.seed,
            is_feasible=is_feasible,
        )
        for step in range(config.supernet.steps):
            try:
                sampler.step(step)
            except BudgetError as error:
                raise self._none_fits(error) from error
            if should_stop():
                break
        return SupernetJob(frozenset(peaks), parts, max(peaks.values()))

    def _none_fits(self, error: BudgetError) -> BudgetError:
        """The reason why the supernet cannot be trained, where it is its own."""
        smallest, budget = self.config.space.smallest, self.config.budget
        accumulates = budget.oversized == "accumulate"
        parts = self.config.recipe.batch_size if accumulates else 1
        needed = self.prepared.memory.predict_supernet(smallest, micro_batches=parts).peak_bytes
        if needed <= budget.memory_bytes:
            return error
        hint = "" if accumulates else "; budget.oversized: accumulate needs less"
        return BudgetError(
            f"memory budget {format_bytes(budget.memory_bytes)}: no step of the supernet fits beside the weights that "
            f"all architectures share; with the smallest ({smallest}) it needs {format_bytes(needed)}{hint}"
        )

    # Phases

    def _run_candidates(self) -> PromotionQueue:
        config, ladder = (
            self.config,
            PromotionQueue(
                self.objectives,
                round_size=self.config.search.round_size,
                promotion_fraction=self.config.search.promotion_fraction,
            ),
        )
        strategy = build_strategy(
            config.search.strategy,
            space=config.space,
            seed=config.seed,
            is_feasible=self.feasibility.record_unless_fits,
            settings=config.search.evolution,
            initial_architectures=self._first(),
        )
        plan = CandidatePlan(
            config=config,
            study=self.study,
            strategy=strategy,
            ladder=ladder,
            jobs=self._jobs,
            feasibility=self.feasibility,
            objectives=self.objectives,
            reporter=self.reporter,
        )
        self._run_phase("candidates", plan, self.deadlines.candidates_seconds)
        plan.tell()
        return ladder

    def _first(self) -> list[Architecture]:
        """Proposed before all others: the default, the smallest, the largest that fits, and what the file names."""
        space = self.config.space
        largest = space.largest_feasible(self.feasibility.fits) or space.largest
        return [self.prepared.default, space.smallest, largest, *self.config.search.initial_architectures]

    def _run_finalists(self, ladder: PromotionQueue) -> None:
        plan = FinalistPlan(
            config=self.config,
            study=self.study,
            ladder=ladder,
            jobs=self._jobs,
            full_steps=self._full_steps,
            validation_count=len(self.prepared.store.splits["validation"]),
            seconds_left=self._seconds_left,
        )
        self._run_phase("finalists", plan, self.deadlines.total_seconds)

    def _run_phase(self, name: str, plan: Plan, deadline_seconds: float) -> None:
        if self.interruption.is_requested:
            return
        self.reporter.note(f"phase: {name}")

        def is_over() -> bool:
            self.account.tick()
            return self.account.spent_seconds >= deadline_seconds

        def on_turn() -> None:
            self.study.check_lease()
            self._show_progress(name)

        self._dispatcher.run(
            plan,
            is_over=is_over,
            is_interrupted=lambda: self.interruption.is_requested,
            in_rounds=self.config.deterministic,
            on_turn=on_turn,
        )

    def _seconds_left(self) -> float:
        return self.deadlines.total_seconds - self.account.spent_seconds

    # Outcomes

    def _take(self, result: Result) -> None:
        """Make a result durable, then tell whoever wants to know."""
        if isinstance(result.key, DefaultKey):
            write_atomically(self._default_path, json.dumps(result.as_dict()).encode())
        elif isinstance(result.key, RerunKey):
            self._repetitions.add(result.key.number, result)
            self.setup.weights_path(result.key).unlink(missing_ok=True)  # its score is all that is wanted
        else:
            self.study.finish(result)
            self._learn(result)
        score_name = self.config.search.score_name(result.stage)
        self.reporter.note(
            f"trial {_name(result.key)} {result.stage} {score_name}={result.score:.4f} "
            f"{result.architecture} {result.seconds:.1f}s peak {format_bytes(result.measured_peak_bytes)}"
            + (f" in {result.micro_batches} micro-batches" if result.micro_batches > 1 else "")
        )
        started = time.monotonic()
        if started >= self._results_due_at:
            self._write_results()
            ended = time.monotonic()
            self._results_due_at = ended + max(_RESULTS_SECONDS, _RESULTS_SHARE * (ended - started))

    def _write_results(self) -> None:
        write_results(self.setup.run_directory / "results.csv", self.study, self.config.space.architecture_class)

    def _learn(self, result: Result) -> None:
        """Remember the best, and let a measured peak of a training correct later predictions."""
        best = self._best.get(result.stage)
        if best is None or result.score > best.score:
            self._best[result.stage] = result
        # Scoring needs less than what is predicted, and what is kept is more.
        if result.stage != "one_shot" and not result.kept_freed_memory:
            self.correction.observe(result.predicted_peak_bytes, result.measured_peak_bytes)
            self._has_measured_peaks = True

    def _show_failure(self, failure: Failure, verdict: Verdict) -> None:
        said = {"requeued": "requeued", "retry_alone": "requeued, to be tried once more alone", "rejected": "failed"}
        self.reporter.note(f"trial {_name(failure.job.key)} {failure.job.stage} {said[verdict]}: {failure.reason}")

    def _record_failure(self, failure: Failure) -> None:
        job = failure.job
        if failure.kind == "memory":
            self.feasibility.outgrew(job.architecture)
        if not isinstance(job.key, CandidateKey):
            self._default_has_failed |= isinstance(job.key, DefaultKey)
            return
        self.study.reject(
            job,
            status="infeasible" if failure.kind == "memory" else "failed",
            reason=failure.reason,
            measured_peak_bytes=failure.measured_peak_bytes,
        )

    # Progress

    @property
    def calibration_note(self) -> str | None:
        """The line about the accuracy of the memory predictions; None where no peak can be compared with them."""
        return self.correction.summary() if self._has_measured_peaks else None

    def _show_progress(self, phase: str) -> None:
        is_last = phase == "finalists"
        done = self.study.count("full" if is_last else "one_shot")
        total = self.config.search.finalists if is_last else self.config.budget.trials
        memory = f"{format_bytes(self._dispatcher.reserved_bytes)} reserved"
        self.reporter.progress(phase, done, total, f"{self._best_text()}, {memory}{self._time_left_text()}")

    def _best_text(self) -> str:
        for stage in reversed(STAGES):
            best = self._best.get(stage)
            if best is not None:
                return f"best {stage} {best.score:.4f} (trial {best.trial})"
        return "no score yet"

    def _time_left_text(self) -> str:
        left = self._seconds_left()
        return "" if math.isinf(left) else f", {format_seconds(left)} left"

    # The family's default, for comparison

    @property
    def _title(self) -> str:
        return self.config.space.architecture_class.title

    @property
    def _default_path(self) -> Path:
        return self.setup.run_directory / "default.json"

    def _train_default(self) -> Result | None:
        """The default, trained in full as finalists are; it does not count against the budget."""
        for result in self.study.results("full"):
            if result.architecture == self.prepared.default:
                return result
        if not self._default_path.exists():
            job = self._jobs.job(DefaultKey(), self.prepared.default, "full", self._full_steps)
            if job is None:
                self.reporter.note(
                    f"{self._title}'s default architecture does not fit the memory budget; it is not trained"
                )
                return None
            self.reporter.note(
                f"{self._title}'s default ({self.prepared.default}) is trained for comparison, on top of the budget"
            )
            self._dispatcher.run(
                ListedPlan([job]), is_over=lambda: False, is_interrupted=lambda: self.interruption.is_requested
            )
            if self._default_has_failed or not self._default_path.exists():
                return None
        try:
            return Result.from_dict(json.loads(self._default_path.read_text()))
        except (ValueError, TypeError, KeyError) as error:
            raise StudyError(f"{self._default_path}: is damaged ({error}); delete it to have it made again") from error

    # The best and the default again, with seeds that played no part in choosing the best

    def _train_again(self, results: Mapping[Role, Result]) -> None:
        """Train what these have trained with further seeds, as far as that was not done; on top of the budget."""
        jobs: list[Job] = []
        roles: dict[Architecture, Role] = {}
        for role, result in results.items():
            roles.setdefault(result.architecture, role)
        for architecture, role in roles.items():
            for number in self._further_seeds:
                if self._repetitions.get(architecture, number) is None:
                    job = self._jobs.job(RerunKey(role, number), architecture, "full", self._full_steps)
                    if job is not None:
                        jobs.append(job)
        if jobs:
            self.reporter.note(
                f"the best and {self._title}'s default are trained with {len(self._further_seeds)} further seed(s), on "
                "top of the budget: how much is luck?"
            )
            self._dispatcher.run(
                ListedPlan(jobs), is_over=lambda: False, is_interrupted=lambda: self.interruption.is_requested
            )

    def _again(self, result: Result) -> list[Result]:
        found = [self._repetitions.get(result.architecture, number) for number in self._further_seeds]
        return [entry for entry in found if entry is not None]

    @property
    def _further_seeds(self) -> range:
        """Seed 0 is the search's own."""
        return range(1, self.config.search.rerun_seeds + 1)


def _name(key: ModelKey) -> str:
    if isinstance(key, CandidateKey):
        return str(key.trial)
    return "default" if isinstance(key, DefaultKey) else "again"
