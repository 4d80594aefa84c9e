"""What is to be run next in each phase of a search.

A plan decides from the configuration and from what the study holds, so that a killed search goes on from there. Where
the search is deterministic it plans in rounds: what a round holds depends on the rounds before it alone, whoever runs
it and however long that takes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from nas.common.progress import Reporter
from nas.config.schema import Config
from nas.execution.plan import Plan
from nas.run.feasibility import Feasibility
from nas.search.keys import CandidateKey, ModelKey, RerunKey
from nas.search.objectives import Objectives
from nas.search.promotion import PromotionQueue
from nas.search.space import Architecture
from nas.search.strategies.base import Strategy
from nas.search.trial import Failure, Job, Result, Stage, job_seed
from nas.storage.study import Study

_STEP_PER_EVALUATION = 3  # a training step costs about three forward passes


class JobMaker:
    """Makes jobs: with the seed that depends on the candidate alone, and the predicted peak.

    Args:
        config: Of the search.
        feasibility: How candidates fit.
    """

    def __init__(self, config: Config, feasibility: Feasibility) -> None:
        self._seed = config.seed
        self._feasibility = feasibility

    def job(self, key: ModelKey, architecture: Architecture, stage: Stage, step_count: int) -> Job | None:
        """Return the job of one stage of one model; None if it does not fit. Every rerun has its own seed."""
        fit = self._feasibility.fit(architecture)
        if fit is None:
            return None
        return Job(
            key=key,
            architecture=architecture,
            stage=stage,
            step_count=step_count,
            seed=job_seed(self._seed, stage, architecture, rerun=key.number if isinstance(key, RerunKey) else 0),
            predicted_peak_bytes=fit.peak_bytes,
            micro_batches=fit.micro_batches,
            correction_bytes=fit.correction_bytes,
        )


class CandidatePlan(Plan):
    """Trains promising candidates, scores those that were put back, else new ones.

    Args:
        config: Of the search.
        study: Numbers candidates, and knows those of earlier sessions.
        strategy: Proposes; is told the scores here.
        ladder: Promotes; is told the scores here.
        jobs: Makes jobs.
        feasibility: How candidates fit.
        objectives: What strategies are told of a result.
        reporter: Told that the space is exhausted.
    """

    def __init__(
        self,
        *,
        config: Config,
        study: Study,
        strategy: Strategy,
        ladder: PromotionQueue,
        jobs: JobMaker,
        feasibility: Feasibility,
        objectives: Objectives,
        reporter: Reporter,
    ) -> None:
        self._config = config
        self._objectives = objectives
        self._worst: tuple[float, ...] | None = None
        self._study = study
        self._strategy = strategy
        self._ladder = ladder
        self._jobs = jobs
        self._feasibility = feasibility
        self._reporter = reporter
        self._is_exhausted = False
        self._out: set[tuple[int, Stage]] = set()
        self._untold: list[Result] = []
        self._failed_count = sum(entry.stage == "one_shot" and entry.status == "failed" for entry in study.rejections)
        self._round = 0
        self._round_count = 0
        self._put_back = dict(study.running)
        self._restore()

    def _restore(self) -> None:
        """Tell what earlier sessions have found; of a round that was cut short nothing, until it is complete."""
        study, deterministic = self._study, self._config.deterministic
        self._round = max(study.rounds.values(), default=0)
        self._round_count = sum(index == self._round for index in study.rounds.values())
        for result in study.results("one_shot"):
            self._untold.append(result)
            if not deterministic or study.round_of(result.trial) < self._round:
                self.tell()
        for result in study.results("short"):
            self._ladder.add_trained(result)
        for entry in study.rejections:
            if entry.stage == "short":
                self._ladder.take(entry.trial)
        started = {result.architecture for result in study.results("one_shot")} | set(study.running.values())
        started |= {entry.architecture for entry in study.rejections if entry.trial in study.rounds}
        for architecture in study.architectures():
            if architecture in started:  # with another memory budget those may fit that were never started
                self._strategy.mark_proposed(architecture)

    def tell(self) -> None:
        """Tell strategy and ladder what has come in since, in the order of the trials."""
        for result in sorted(self._untold, key=lambda entry: entry.trial):
            self._strategy.tell(result.architecture, *self._told(result))
            self._ladder.add_scored(result)
        self._untold.clear()

    def _told(self, result: Result) -> tuple[float, ...]:
        """What a strategy is told: of who breaks a bound that only results show, the worst so far."""
        values = self._objectives.values(result)
        worst = values if self._worst is None else tuple(map(min, self._worst, values))
        if not self._objectives.is_eligible(result):
            return worst
        self._worst = worst
        return values

    def next_jobs(self) -> list[Job]:
        return self._next_round() if self._config.deterministic else self._next_one()

    def _next_one(self) -> list[Job]:
        self.tell()
        training = self._training()
        if training is not None:
            return [training]
        waiting = self._one_put_back()
        if waiting is not None:
            return [waiting]
        return self._proposals(self._config.search.eval_batch, round_index=0)

    def _next_round(self) -> list[Job]:
        """All jobs of the next round, or the rest of one that was cut short."""
        jobs = self._rest_of_round()
        if jobs or not self._untold:
            return jobs or self._opened_round()
        self.tell()
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
        while (job := self._one_put_back()) is not None:
            jobs.append(job)
        room = self._config.search.round_size - self._round_count
        while room > 0 and (group := self._proposals(min(room, self._config.search.eval_batch), self._round)):
            jobs += group
            self._round_count += len(group[0].members)
            room = self._config.search.round_size - self._round_count
        return jobs

    def _training(self) -> Job | None:
        nobody_comes = self._is_exhausted or self._trials_left() <= 0
        is_complete = nobody_comes and not self._untold and not self._unfinished()
        due = self._ladder.next_training(is_complete=is_complete, fits=self._feasibility.fits)
        if due is None:
            return None
        self._ladder.take(due.trial)
        return self._jobs.job(
            CandidateKey(due.trial), due.architecture, "short", self._config.search.short_training_steps
        )

    def _unfinished(self) -> bool:
        """Whether a candidate that fits has yet to be scored."""
        return any(self._feasibility.fits(architecture) for architecture in self._study.running.values())

    def _one_put_back(self) -> Job | None:
        for trial, architecture in list(self._put_back.items()):
            job = self._jobs.job(CandidateKey(trial), architecture, "one_shot", 0)
            if job is not None:
                del self._put_back[trial]
                return job
        return None

    def _proposals(self, count: int, round_index: int) -> list[Job]:
        """One job that scores so many new candidates, or fewer; grouping follows the configuration alone."""
        members: list[Job] = []
        while not self._is_exhausted and self._trials_left() > 0 and len(members) < count:
            proposal = self._strategy.ask()
            if proposal is None:
                self._is_exhausted = True
                self._reporter.note(
                    "the search space is exhausted: every architecture that fits has been scored"
                    if self._strategy.is_exhaustive
                    else "the search space seems exhausted: nothing new that fits was found in it"
                )
                break
            trial = self._study.start(proposal, round_index)
            job = self._jobs.job(CandidateKey(trial), proposal, "one_shot", 0)
            if job is None:
                raise RuntimeError(f"a strategy has proposed {proposal}, which does not fit")
            members.append(job)
        return [replace(members[0], companions=tuple(members[1:]))] if members else []

    def _trials_left(self) -> float:
        trials = self._config.budget.trials
        if trials is None:
            return math.inf
        return trials - self._study.count("one_shot") - len(self._study.running) - self._failed_count

    def finished(self, result: Result) -> None:
        if result.stage == "one_shot":
            self._untold.append(result)
        else:
            self._ladder.add_trained(result)

    def rejected(self, failure: Failure) -> None:
        if failure.job.stage == "short":
            self._ladder.take(failure.job.trial)
        elif failure.kind != "memory":  # who does not fit costs no trial of the budget
            self._failed_count += 1

    def requeue(self, job: Job) -> None:
        for member in job.members:
            if member.stage == "one_shot":
                self._put_back[member.trial] = member.architecture
            else:
                self._ladder.give_back(member.trial)


class FinalistPlan(Plan):
    """Trains the best in full: of the ranking, the first ones that there is time for, as many as configured.

    Args:
        config: Of the search.
        study: Knows who was trained in full before, and how long trainings take.
        ladder: Ranks.
        jobs: Makes jobs.
        full_steps: Steps of a full training.
        validation_count: Samples on which a score is computed.
        seconds_left: Until the search has to end.
    """

    def __init__(
        self,
        *,
        config: Config,
        study: Study,
        ladder: PromotionQueue,
        jobs: JobMaker,
        full_steps: int,
        validation_count: int,
        seconds_left: Callable[[], float],
    ) -> None:
        self._config = config
        self._study = study
        self._ladder = ladder
        self._jobs = jobs
        self._full_steps = full_steps
        self._validation_count = validation_count
        self._seconds_left = seconds_left
        failed = {entry.trial for entry in study.rejections if entry.stage == "full"}
        self._tried = failed | {result.trial for result in study.results("full")}
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
        ranking = self._ladder.promotion_order()
        room = self._seconds_left()
        if not self._tried and ranking:
            # If nobody will be ready in time, whoever comes nearest is still tried.
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
        """How long a full training will take: from the candidate's own short one, else from its time on validation."""
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


class ListedPlan(Plan):
    """Trainings for comparison, which are no candidates of the search.

    Args:
        jobs: All of them.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._waiting = list(jobs)

    def next_jobs(self) -> list[Job]:
        jobs, self._waiting = self._waiting[:1], self._waiting[1:]
        return jobs

    def finished(self, result: Result) -> None:
        del result  # it is in its file

    def rejected(self, failure: Failure) -> None:
        del failure  # there is less to compare with then

    def requeue(self, job: Job) -> None:
        self._waiting.append(job)
