"""Race the finalists and the family's default: further seeds, until the best is separated or the time is over."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from nas.execution.plan import Plan
from nas.run.phases.context import PhaseContext
from nas.search.keys import BilinearKey, LinearKey, RerunKey, SeededKey
from nas.search.racing import Race, SeedScores, Standing
from nas.search.trial import Failure, Job, Result

Racer = SeededKey | LinearKey | BilinearKey
"""The key of the first training of a model; one that is solved has no others."""

ReadScores = Callable[[Result], SeedScores]
"""Function that returns the score of one training, and how it depends on the validation samples."""


class RacePlan(Plan):
    """Trains the models of a race with further seeds, in rounds.

    Which training is next follows from the finished ones, so that a killed race continues where it was, and
    a deterministic one does not depend on the workers.

    Args:
        context: The search.
        entries: The first full training of each model.
        full_steps: The number of steps of a full training.
        read_scores: Function that returns the scores of one training.
    """

    def __init__(
        self, context: PhaseContext, entries: Mapping[Racer, Result], *, full_steps: int, read_scores: ReadScores
    ) -> None:
        self._context = context
        self._entries = entries
        self._full_steps = full_steps
        self._read_scores = read_scores
        self._race: Race[Racer] = Race(context.config.search.rerun_seeds + 1)
        self._scores: dict[tuple[Racer, int], SeedScores] = {}
        self._withdrawn: set[Racer] = set()
        self._waiting: list[Job] = []
        self._running: set[RerunKey] = set()
        self._is_late = False

    def trainings(self, racer: Racer) -> list[Result]:
        """Return the trainings of a model: the first one, and those with further seeds in their order."""
        found = [self._entries[racer]]
        if not isinstance(racer, SeededKey):
            return found
        store = self._context.recorder.reruns
        for number in range(1, self._context.config.search.rerun_seeds + 1):
            again = store.get(found[0].architecture, RerunKey(racer, number))
            if again is None:
                break
            found.append(again)
        return found

    def field(self) -> dict[Racer, SeedScores]:
        """Return the scores of all models."""
        return {racer: self._scores_of(racer) for racer in self._entries}

    def standing(self) -> Standing[Racer]:
        """Return the standing of the race; the time is over if a wanted training was left out for lack of it."""
        return self._race.standing(self.field(), withdrawn=self._withdrawn, is_over=self._is_late)

    def end(self) -> Standing[Racer]:
        """Return the standing at the end of the race, whether or not it was complete."""
        return self._race.standing(self.field(), withdrawn=self._withdrawn, is_over=True)

    def _scores_of(self, racer: Racer) -> SeedScores:
        trainings = self.trainings(racer)
        for number, training in enumerate(trainings):
            if (racer, number) not in self._scores:
                self._scores[racer, number] = self._read_scores(training)
        return joined([self._scores[racer, number] for number in range(len(trainings))])

    def next_jobs(self) -> list[Job]:
        if not self._waiting and not self._running:
            self._waiting = self._next_round()
        jobs, self._waiting = self._waiting, []
        self._running |= {job.key for job in jobs if isinstance(job.key, RerunKey)}
        return jobs

    def _next_round(self) -> list[Job]:
        """Return the trainings of the next round, or the rest of an incomplete one; none if the race has ended."""
        while not self._is_late:
            wanted = [racer for racer in self.standing().wanted if isinstance(racer, SeededKey)]
            jobs: list[Job] = []
            for racer in wanted:
                trainings = self.trainings(racer)
                architecture = self._entries[racer].architecture
                job = self._context.jobs.job(RerunKey(racer, len(trainings)), architecture, "full", self._full_steps)
                if job is None:
                    self._withdrawn.add(racer)
                elif max(training.longest_seconds for training in trainings) > self._room():
                    self._is_late = True
                else:
                    jobs.append(job)
            if jobs or not wanted:
                return jobs
        return []

    def _room(self) -> float:
        """Return the seconds that are left for trainings."""
        clock = self._context.clock
        return clock.seconds_left(clock.deadlines.race_seconds)

    def finished(self, result: Result) -> None:
        self._running.discard(_rerun(result.key))

    def rejected(self, failure: Failure) -> None:
        key = _rerun(failure.job.key)
        self._running.discard(key)
        self._withdrawn.add(key.origin)

    def requeue(self, job: Job) -> None:
        self._running.discard(_rerun(job.key))
        self._waiting.append(job)


def _rerun(key: object) -> RerunKey:
    if not isinstance(key, RerunKey):
        raise TypeError(f"race: expected further seeds only, got {key}")
    return key


def joined(seeds: Sequence[SeedScores]) -> SeedScores:
    """Return the scores of several trainings of one model, each of one seed, as those of the model."""
    values = np.concatenate([scores.values for scores in seeds])
    return SeedScores(values, np.concatenate([scores.effects for scores in seeds]), seeds[0].has_luck)


def preferred(trainings: Sequence[Result]) -> Result:
    """Return the training of a model that validation prefers; of equal scores, by cross-entropy, then the first."""
    return min(trainings, key=lambda result: (-result.score, result.metrics.get("cross_entropy", 0.0)))
