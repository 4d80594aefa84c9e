"""The loop of a search: supernet, candidates, finalists, and the comparison with PMF's default.

The only module that knows strategies, executors and the study together. Everything that it decides follows from the
configuration and from what the study holds, so a killed search goes on from there.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nas.budget import Deadlines, TimeAccount
from nas.config import Config
from nas.errors import StudyError, TrainingError
from nas.execution import Executor, Ledger, WorkerSetup
from nas.files import write_atomically
from nas.fusion import build_supernet
from nas.preparation import Prepared
from nas.progress import Reporter
from nas.report import write_results
from nas.results import STAGES, Failure, Job, Result, Stage
from nas.search import Strategy, build_strategy, next_training, promotion_order, ranked
from nas.space import Architecture
from nas.study import Study
from nas.supernet_training import train_supernet
from nas.training import architecture_seed, full_step_count, seed_from
from nas.units import format_bytes, format_seconds
from nas.weights import save_weights

DEFAULT_TRIAL = -1
"""The PMF default that is trained for comparison is no candidate of the search."""

_WAIT_SECONDS = 0.5
_RESULTS_SECONDS = 5.0
_SAME_FAILURES = 3
_STEP_PER_EVALUATION = 3  # a training step costs about three forward passes
_WORKER_DEATHS = 3


@dataclass(frozen=True)
class Outcome:
    """What a search came to.

    Args:
        best: The best full training on validation; None if none was finished.
        default: PMF's default, trained the same way; None if it cannot fit, fails, or has nothing to be compared with.
    """

    best: Result | None
    default: Result | None


class Search:
    """One run of a search, or the continuation of one.

    Args:
        config: What to search.
        prepared: Encoders, features, memory predictions.
        setup: What the workers were given.
        study: Of the run directory.
        executor: Runs jobs.
        account: Running time of the run.
        reporter: Shows what happens.
    """

    def __init__(
        self,
        *,
        config: Config,
        prepared: Prepared,
        setup: WorkerSetup,
        study: Study,
        executor: Executor,
        account: TimeAccount,
        reporter: Reporter,
    ) -> None:
        self.config = config
        self.prepared = prepared
        self.setup = setup
        self.study = study
        self.executor = executor
        self.account = account
        self.reporter = reporter
        self.deadlines = Deadlines(config.budget)
        self.ledger = Ledger(config.budget.memory_bytes)
        self.is_exhausted = False
        self._full_steps = full_step_count(config.recipe, len(prepared.store.splits["train"]))
        self._deaths: dict[tuple[int, Stage], int] = {}
        self._pending_failures: list[Failure] = []
        self._default_has_failed = False
        self._results_written_at = -math.inf
        self._infeasible = {
            rejection.architecture for rejection in study.rejections if rejection.status == "infeasible"
        }
        self._strategy = self._resumed_strategy()

    def run(self) -> Outcome:
        """Search until the budget is spent or nothing is left to do.

        Raises:
            TrainingError: If training fails the same way again and again.
        """
        self.account.start()
        try:
            self._train_supernet()
            self._run_phase("candidates", self._next_candidate_job, self.deadlines.candidates_seconds)
            self._run_phase("finalists", self._next_finalist_job, self.deadlines.total_seconds)
        finally:
            self.account.stop()
            write_results(self.setup.run_directory / "results.csv", self.study)
        best = next(iter(ranked(self.study.results("full"))), None)
        return Outcome(best=best, default=None if best is None else self._train_default())

    # Feasibility

    def is_feasible(self, architecture: Architecture) -> bool:
        """Whether the architecture's training fits the memory budget alone; one that does not is recorded, once."""
        peak_bytes = self.prepared.memory.predict(architecture).peak_bytes
        if self._fits(architecture):
            return True
        if architecture not in self._infeasible:
            self._infeasible.add(architecture)
            self.study.reject_infeasible(
                architecture, f"predicted peak {peak_bytes} bytes, budget {self.ledger.budget_bytes} bytes"
            )
        return False

    def _fits(self, architecture: Architecture) -> bool:
        return self.ledger.fits_alone(self.prepared.memory.predict(architecture).peak_bytes)

    # Supernet

    def _train_supernet(self) -> None:
        checkpoint = self.setup.run_directory / "supernet_checkpoint.pt"
        # A supernet cut short by its share of the time goes on with more time, unless scores depend on it already.
        if self.setup.supernet_path.exists() and (self.study.results("inherited") or not checkpoint.exists()):
            return
        config, prepared, total = self.config, self.prepared, self.config.supernet.steps
        supernet = build_supernet(
            image_encoder=prepared.image_encoder,
            text_encoder=prepared.text_encoder,
            space=config.space,
            class_count=len(prepared.store.class_names),
            seed=seed_from(config.seed, "supernet"),
        )
        fits_all = self._fits(config.space.largest)

        def is_feasible(architecture: Architecture) -> bool:
            # Every gene only adds tensors, so where the largest fits, all do. Sampling proposes no candidate, so what
            # does not fit is not recorded here.
            return fits_all or self._fits(architecture)

        def on_step(done: int, loss: float) -> None:
            self.account.tick()
            self.reporter.progress("supernet", done, total, f"loss {loss:.3f}{self._time_left_text()}")

        done = train_supernet(
            supernet=supernet,
            split=prepared.store.splits["train"],
            space=config.space,
            recipe=config.recipe,
            step_count=total,
            seed=config.seed,
            is_feasible=is_feasible,
            checkpoint=checkpoint,
            checkpoint_steps=config.supernet.checkpoint_steps,
            should_stop=lambda: self.account.spent_seconds >= self.deadlines.supernet_seconds,
            on_step=on_step,
        )
        save_weights(self.setup.supernet_path, supernet, steps=str(done))
        if done == total:
            checkpoint.unlink()
        ended = "" if done == total else f", ended by its share of the time (of {total} steps)"
        self.reporter.note(f"supernet: {done} steps, {format_seconds(self.account.spent_seconds)} spent{ended}")

    # Candidates

    def _resumed_strategy(self) -> Strategy:
        config = self.config
        strategy = build_strategy(
            config.search.strategy,
            space=config.space,
            seed=config.seed,
            is_feasible=self.is_feasible,
            evolution=config.search.evolution,
            first=(self.prepared.default, config.space.smallest, config.space.largest),
        )
        for result in self.study.results("inherited"):
            strategy.tell(result.architecture, result.score)
        infeasible = {rejection.architecture for rejection in self.study.rejections if rejection.status == "infeasible"}
        for architecture in self.study.architectures():
            if architecture not in infeasible:  # with another memory budget it may fit
                strategy.mark_proposed(architecture)
        return strategy

    def _next_candidate_job(self, running: Sequence[Job]) -> Job | None:
        """Train a promising candidate, else score one that was put back, else score a new one."""
        search, scored = self.config.search, self._that_fit(self.study.results("inherited"))
        busy = {self._key(member) for job in running for member in job.members} | {
            self._key(failure.job) for failure in self._pending_failures
        }
        taken = self._trials_at("trained") | {trial for trial, stage in busy if stage == "trained"}
        put_back = {trial: entry for trial, entry in self.study.running.items() if self._fits(entry)}
        no_more_scores = not put_back and (self.is_exhausted or self._trials_left() <= 0)
        due = next_training(search, scored=scored, taken=taken, is_complete=no_more_scores)
        if due is not None:
            return self._job(due.trial, due.architecture, "trained", search.training_steps)
        for trial, architecture in put_back.items():
            if (trial, "inherited") not in busy:
                return self._job(trial, architecture, "inherited", 0)
        members: list[Job] = []
        # Grouping follows the configuration alone, so that it is the same for any number of workers.
        while not self.is_exhausted and self._trials_left() > 0 and len(members) < search.scored_together:
            proposal = self._strategy.ask()
            if proposal is None:
                self.is_exhausted = True
                self.reporter.note("the search space is exhausted: every architecture that fits has been scored")
            else:
                members.append(self._job(self.study.start(proposal), proposal, "inherited", 0))
        return replace(members[0], companions=tuple(members[1:])) if members else None

    def _that_fit(self, results: Sequence[Result]) -> list[Result]:
        """Those that the memory budget of this session has room for; an earlier session may have had more."""
        return [result for result in results if self._fits(result.architecture)]

    def _trials_at(self, stage: Stage) -> set[int]:
        """Candidates that have come to an end at a stage, with a score or without."""
        failed = {rejection.trial for rejection in self.study.rejections if rejection.stage == stage}
        return failed | {result.trial for result in self.study.results(stage)}

    def _trials_left(self) -> float:
        if self.config.budget.trials is None:
            return math.inf
        failed = sum(
            rejection.stage == "inherited" and rejection.status == "failed" for rejection in self.study.rejections
        )
        return self.config.budget.trials - len(self.study.results("inherited")) - len(self.study.running) - failed

    # Finalists

    def _next_finalist_job(self, running: Sequence[Job]) -> Job | None:
        """Train the best in full: of the ranking, the first ones that there is time for, as many as configured."""
        tried = {job.trial for job in running} | {failure.job.trial for failure in self._pending_failures}
        tried |= self._trials_at("full")
        ranking = promotion_order(
            scored=self._that_fit(self.study.results("inherited")),
            trained=self._that_fit(self.study.results("trained")),
        )
        room = self._seconds_left()
        if not tried and ranking:
            # If nobody will be ready in time, whoever comes nearest is still tried.
            room = max(room, min(self._full_seconds(result) for result in ranking))
        taken = 0
        for result in ranking:
            if result.trial in tried:
                taken += 1
            elif self._full_seconds(result) <= room:
                return self._job(result.trial, result.architecture, "full", self._full_steps)
            if taken == self.config.search.finalists:
                return None
        return None

    def _full_seconds(self, result: Result) -> float:
        """How long a full training will take: from the candidate's own short one, else from its time on validation."""
        trained, scored = self.study.result("trained", result.trial), self.study.result("inherited", result.trial)
        evaluation = 0.0 if scored is None else scored.seconds
        if trained is not None:
            return evaluation + self._full_steps * max(trained.seconds - evaluation, 0.0) / trained.step_count
        samples = len(self.prepared.store.splits["validation"])
        steps = self._full_steps * self.config.recipe.batch_size / samples
        return evaluation + steps * _STEP_PER_EVALUATION * evaluation

    def _seconds_left(self) -> float:
        return self.deadlines.total_seconds - self.account.spent_seconds

    # Running jobs

    def _job(self, trial: int, architecture: Architecture, stage: Stage, step_count: int) -> Job:
        return Job(
            trial=trial,
            architecture=architecture,
            stage=stage,
            step_count=step_count,
            seed=architecture_seed(self.config.seed, stage, architecture),
            predicted_peak_bytes=self.prepared.memory.predict(architecture).peak_bytes,
        )

    def _run_phase(self, name: str, next_job: Callable[[Sequence[Job]], Job | None], deadline_seconds: float) -> None:
        """Keep the slots busy until there is nothing more to do or the deadline has come.

        What is still running at the deadline is stopped and stays to be done.
        """
        self.reporter.note(f"phase: {name}")

        def is_over() -> bool:
            self.account.tick()
            return self.account.spent_seconds >= deadline_seconds

        self.executor.stop_when(is_over)
        waiting: Job | None = None  # decided, but has to wait for memory: nobody overtakes it
        while not is_over():
            while len(self.executor.running) < self.executor.slot_count:
                waiting = waiting or next_job(self.executor.running)
                if waiting is None or not self.ledger.admit(self._key(waiting), waiting.reserved_bytes):
                    break
                self.executor.submit(waiting)
                waiting = None
            if not self.executor.running:
                break
            running = list(self.executor.running)
            for outcome in self.executor.wait(_WAIT_SECONDS):
                self._take(outcome)
            self._release_ended(running)
            self._show_progress(name)
        running = list(self.executor.running)
        for outcome in self.executor.stop_running():
            self._take(outcome)
        self._release_ended(running)
        self._record_failures()

    def _release_ended(self, jobs: Sequence[Job]) -> None:
        """Give back what jobs had reserved that are not running any more."""
        still = {self._key(job) for job in self.executor.running}
        for key in {self._key(job) for job in jobs} - still:
            if self.ledger.holds(key):
                self.ledger.release(key)

    @staticmethod
    def _key(job: Job) -> tuple[int, Stage]:
        return job.trial, job.stage

    def _take(self, outcome: Result | Failure) -> None:
        """Make an outcome durable, then tell whoever wants to know."""
        if isinstance(outcome, Failure):
            self._take_failure(outcome)
            return
        self._record_failures()
        if outcome.trial == DEFAULT_TRIAL:
            write_atomically(self._default_path, json.dumps(outcome.as_dict()).encode())
        else:
            self.study.finish(outcome)
            if outcome.stage == "inherited":
                self._strategy.tell(outcome.architecture, outcome.score)
        self.reporter.note(
            f"trial {'default' if outcome.trial == DEFAULT_TRIAL else outcome.trial} {outcome.stage} "
            f"{self.config.search.objective}={outcome.score:.4f} {outcome.architecture} "
            f"{outcome.seconds:.1f}s peak {format_bytes(outcome.measured_peak_bytes)}"
        )
        if time.monotonic() - self._results_written_at > _RESULTS_SECONDS:
            write_results(self.setup.run_directory / "results.csv", self.study)
            self._results_written_at = time.monotonic()

    def _take_failure(self, failure: Failure) -> None:
        """Put a candidate back whose worker died; record one that fails by itself, or kills its worker every time."""
        job, reason = failure.job, failure.reason
        if failure.worker_died:
            self._deaths[self._key(job)] = self._deaths.get(self._key(job), 0) + 1
            if self._deaths[self._key(job)] < _WORKER_DEATHS:
                self.reporter.note(f"trial {job.trial} {job.stage} put back: {reason}")
                return
        if job.trial == DEFAULT_TRIAL:
            self.reporter.note(f"PMF's default failed to train: {reason}")
            self._default_has_failed = True
            return
        self.reporter.note(f"trial {job.trial} {job.stage} failed: {reason}")
        self._pending_failures.append(failure)
        last = self._pending_failures[-_SAME_FAILURES:]
        if len(last) == _SAME_FAILURES and len({entry.cause for entry in last}) == 1:
            # The cause lies outside the candidates: they are not recorded as failed, a resume tries them again.
            raise TrainingError(f"{_SAME_FAILURES} candidates in a row failed with one cause: {reason}")

    def _record_failures(self) -> None:
        """Make failures durable, once others have got through or the phase has ended: they are the candidates' own."""
        while self._pending_failures:
            failure = self._pending_failures.pop(0)
            self.study.fail(failure.job, failure.reason)

    def _show_progress(self, phase: str) -> None:
        is_last = phase == "finalists"
        done = len(self.study.results("full" if is_last else "inherited"))
        total = self.config.search.finalists if is_last else self.config.budget.trials
        memory = f"{format_bytes(self.ledger.reserved_bytes)} reserved"
        self.reporter.progress(phase, done, total, f"{self._best_text()}, {memory}{self._time_left_text()}")

    def _best_text(self) -> str:
        for stage in reversed(STAGES):
            results = self.study.results(stage)
            if results:
                best = ranked(results)[0]
                return f"best {stage} {best.score:.4f} (trial {best.trial})"
        return "no score yet"

    def _time_left_text(self) -> str:
        left = self._seconds_left()
        return "" if math.isinf(left) else f", {format_seconds(left)} left"

    # PMF's default, for comparison

    @property
    def _default_path(self) -> Path:
        return self.setup.run_directory / "default.json"

    def _train_default(self) -> Result | None:
        """The default, trained in full as finalists are; it does not count against the budget."""
        for result in self.study.results("full"):
            if result.architecture == self.prepared.default:
                return result
        if not self._default_path.exists():
            job = self._job(DEFAULT_TRIAL, self.prepared.default, "full", self._full_steps)
            if not self.ledger.fits_alone(job.predicted_peak_bytes):
                self.reporter.note("PMF's default architecture does not fit the memory budget; it is not trained")
                return None
            self.reporter.note(
                f"PMF's default ({self.prepared.default}) is trained for comparison, on top of the budget"
            )
            pending: list[Job] = [job]
            self.executor.stop_when(lambda: False)
            while not self._default_path.exists() and not self._default_has_failed:
                if pending:
                    self.ledger.admit(self._key(job), job.predicted_peak_bytes)
                    self.executor.submit(pending.pop())
                for outcome in self.executor.wait(_WAIT_SECONDS):
                    self._take(outcome)
                self._release_ended([job])
                if not self.executor.running and not pending:
                    pending = [job]  # its worker died
            if self._default_has_failed:
                return None
        try:
            return Result.from_dict(json.loads(self._default_path.read_text()))
        except (ValueError, TypeError, KeyError) as error:
            raise StudyError(f"{self._default_path}: is damaged ({error}); delete it to have it made again") from error
