"""Screen candidates with the supernet's weights, and train the promising ones briefly.

The plan follows from the configuration and the study, so that a killed search continues where it was. A deterministic
search plans in rounds: a round depends only on the rounds before it, not on the workers that run it or their order.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from nas.execution.plan import Plan
from nas.run.phases.context import PhaseContext
from nas.search.keys import CandidateKey
from nas.search.promotion import PromotionQueue
from nas.search.space import Architecture
from nas.search.strategies.base import Strategy
from nas.search.strategies.registry import build_strategy
from nas.search.trial import Failure, Job, Result


class CandidatePhase:
    """Screens candidates and promotes the best of them to a short training.

    Args:
        initial_architectures: The architectures that are proposed before all others.
    """

    def __init__(self, initial_architectures: Sequence[Architecture]) -> None:
        self._initial_architectures = initial_architectures

    def run(self, context: PhaseContext) -> PromotionQueue:
        """Run the phase until its budget is spent or the search space is exhausted.

        Args:
            context: The search.

        Returns:
            The ranking of all candidates.

        Raises:
            TrainingError: If training fails the same way repeatedly.
        """
        search = context.config.search
        queue = PromotionQueue(
            context.objectives, round_size=search.round_size, promotion_fraction=search.promotion_fraction
        )
        strategy = build_strategy(
            search.strategy,
            space=context.config.space,
            seed=context.config.seed,
            is_feasible=context.feasibility.record_unless_fits,
            settings=search.evolution.settings(),
            initial_architectures=self._initial_architectures,
        )
        plan = CandidatePlan(context, strategy, queue)
        context.run_plan(
            "candidates",
            plan,
            deadline_seconds=context.clock.end_of("candidates", context.clock.deadlines.candidates_seconds),
            counts=lambda: (context.study.count("one_shot"), context.config.budget.trials),
        )
        if not context.study.count("one_shot"):  # without a score, not even the default would be an answer
            plan.ends_with_a_score = True
            context.run_plan(
                "candidates",
                plan,
                deadline_seconds=context.clock.deadlines.total_seconds,
                counts=lambda: (context.study.count("one_shot"), 1),
            )
        plan.report()
        return queue


class CandidatePlan(Plan):
    """Trains promising candidates, else screens requeued ones, else new ones.

    Args:
        context: The search.
        strategy: The strategy that proposes new candidates and receives their values.
        queue: The ranking of the candidates, which receives their results.
    """

    def __init__(self, context: PhaseContext, strategy: Strategy, queue: PromotionQueue) -> None:
        self._config = context.config
        self._study = context.study
        self._objectives = context.objectives
        self._feasibility = context.feasibility
        self._jobs = context.jobs
        self._reporter = context.reporter
        self._strategy = strategy
        self._queue = queue
        self.ends_with_a_score = False
        """Whether nothing more is proposed than the first score takes, because the time of the phase is over."""
        self._trains_briefly = "short" not in context.clock.deadlines.left_out
        self._worst: tuple[float, ...] | None = None
        self._is_exhausted = False
        self._unreported: list[Result] = []
        self._failed_count = sum(
            entry.stage == "one_shot" and entry.status == "failed" for entry in self._study.rejections
        )
        self._round = 0
        self._round_count = 0
        self._requeued = dict(self._study.running)
        self._restore()

    def _restore(self) -> None:
        """Report the results of earlier sessions; those of an incomplete round wait until it is complete."""
        study, deterministic = self._study, self._config.deterministic
        self._round = max(study.rounds.values(), default=0)
        self._round_count = sum(index == self._round for index in study.rounds.values())
        for result in study.results("one_shot"):
            self._unreported.append(result)
            if not deterministic or study.round_of(result.trial) < self._round:
                self.report()
        for result in study.results("short"):
            self._queue.add_trained(result)
        for entry in study.rejections:
            if entry.stage == "short":
                self._queue.take(entry.trial)
        started = {result.architecture for result in study.results("one_shot")} | set(study.running.values())
        started |= {entry.architecture for entry in study.rejections if entry.trial in study.rounds}
        for architecture in study.architectures():
            if architecture in started:  # others may fit with a larger memory budget
                self._strategy.mark_proposed(architecture)

    def report(self) -> None:
        """Report new results to the strategy and the promotion queue, in the order of the trials."""
        for result in sorted(self._unreported, key=lambda entry: entry.trial):
            self._strategy.tell(result.architecture, *self._values(result))
            self._queue.add_scored(result)
        self._unreported.clear()

    def _values(self, result: Result) -> tuple[float, ...]:
        """Return the objective values for the strategy.

        Candidates that violate a measured constraint get the worst values seen so far.
        """
        values = self._objectives.values(result)
        worst = values if self._worst is None else tuple(map(min, self._worst, values))
        if not self._objectives.is_eligible(result):
            return worst
        self._worst = worst
        return values

    def next_jobs(self) -> list[Job]:
        if self.ends_with_a_score and self._study.count("one_shot"):
            return []
        return self._next_round() if self._config.deterministic else self._next_one()

    def _next_one(self) -> list[Job]:
        self.report()
        training = self._training()
        if training is not None:
            return [training]
        waiting = self._next_requeued()
        if waiting is not None:
            return [waiting]
        return self._proposals(self._config.search.eval_batch, round_index=0)

    def _next_round(self) -> list[Job]:
        """Return all jobs of the next round, or the rest of an incomplete one."""
        jobs = self._rest_of_round()
        if jobs or not self._unreported:
            return jobs or self._opened_round()
        self.report()
        return self._opened_round()

    def _opened_round(self) -> list[Job]:
        if self._trials_left() <= 0 or self._is_exhausted:
            return self._rest_of_round()
        if self._round_count >= self._config.search.round_size:
            self._round, self._round_count = self._round + 1, 0
        return self._rest_of_round()

    def _rest_of_round(self) -> list[Job]:
        jobs: list[Job] = []
        while (job := self._training()) is not None:
            jobs.append(job)
        while (job := self._next_requeued()) is not None:
            jobs.append(job)
        room = self._config.search.round_size - self._round_count
        while room > 0 and (group := self._proposals(min(room, self._config.search.eval_batch), self._round)):
            jobs += group
            self._round_count += len(group[0].members)
            room = self._config.search.round_size - self._round_count
        return jobs

    def _training(self) -> Job | None:
        if not self._trains_briefly:
            return None
        is_last = self._is_exhausted or self._trials_left() <= 0
        is_complete = is_last and not self._unreported and not self._unfinished()
        due = self._queue.next_training(is_complete=is_complete, fits=self._feasibility.fits)
        if due is None:
            return None
        self._queue.take(due.trial)
        return self._jobs.job(
            CandidateKey(due.trial), due.architecture, "short", self._config.search.short_training_steps
        )

    def _unfinished(self) -> bool:
        """Return whether a candidate that fits has not been scored yet."""
        return any(self._feasibility.fits(architecture) for architecture in self._study.running.values())

    def _next_requeued(self) -> Job | None:
        for trial, architecture in list(self._requeued.items()):
            job = self._jobs.job(CandidateKey(trial), architecture, "one_shot", 0)
            if job is not None:
                del self._requeued[trial]
                return job
        return None

    def _proposals(self, count: int, round_index: int) -> list[Job]:
        """Return one job that scores new candidates together; their grouping depends on the configuration only.

        Args:
            count: The largest number of candidates.
            round_index: The round of proposals that they belong to.
        """
        members: list[Job] = []
        while not self._is_exhausted and self._trials_left() > 0 and len(members) < count:
            proposal = self._strategy.ask()
            if proposal is None:
                self._is_exhausted = True
                self._reporter.note(
                    "The search space is exhausted: every architecture that fits has been screened"
                    if self._strategy.is_exhaustive
                    else "The search space seems exhausted: no further architecture that fits was found"
                )
                break
            trial = self._study.start(proposal, round_index)
            job = self._jobs.job(CandidateKey(trial), proposal, "one_shot", 0)
            if job is None:
                raise RuntimeError(f"strategy: proposed {proposal}, which does not fit the memory budget")
            members.append(job)
        return [replace(members[0], companions=tuple(members[1:]))] if members else []

    def _trials_left(self) -> float:
        trials = self._config.budget.trials
        if trials is None:
            return math.inf
        return trials - self._study.count("one_shot") - len(self._study.running) - self._failed_count

    def finished(self, result: Result) -> None:
        if result.stage == "one_shot":
            self._unreported.append(result)
        else:
            self._queue.add_trained(result)

    def rejected(self, failure: Failure) -> None:
        if failure.job.stage == "short":
            self._queue.take(failure.job.trial)
        elif failure.kind != "memory":  # an architecture that does not fit costs no trial of the budget
            self._failed_count += 1

    def requeue(self, job: Job) -> None:
        for member in job.members:
            if member.stage == "one_shot":
                self._requeued[member.trial] = member.architecture
            else:
                self._queue.give_back(member.trial)
