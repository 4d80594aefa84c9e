"""Find the answer of a search: race the finalists, the family's default among them, with further seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.common.errors import StudyError
from nas.run.phases.context import PhaseContext
from nas.run.phases.race_plan import RacePlan, Racer, ReadScores, preferred
from nas.run.reruns import DEFAULT_RESULT, RERUNS, read_default_result
from nas.search.keys import CandidateKey, DefaultKey, LinearKey, RerunKey
from nas.search.racing import SeedScores, Standing
from nas.search.space import Architecture
from nas.search.trial import Result, job_seed


@dataclass(frozen=True)
class RaceEnd:
    """The end of a race.

    Args:
        field: The scores of all models.
        standing: The standing.
        best: The best of the finalists.
        simple: The models that need no search, by their roles, the simplest first.
    """

    field: Mapping[Racer, SeedScores]
    standing: Standing[Racer]
    best: Racer
    simple: Mapping[str, Racer]


@dataclass(frozen=True)
class Outcome:
    """The outcome of a search.

    Args:
        best: The best result on validation of the last stage that any candidate has completed: after a race, of the
            architecture with the highest mean over its seeds, the seed that validation prefers. None if no candidate
            meets the constraints, or none was scored.
        default: The full training of the family's default, of its seeds the one that validation prefers; None if it
            does not fit, has failed, or had no time.
        linear: The linear classifier on the frozen encoders; None if the time was over before it was solved.
        best_seeds: All trainings of the best architecture.
        default_seeds: All trainings of the default.
        race: The end of the race; None if there was none.
    """

    best: Result | None
    default: Result | None = None
    linear: Result | None = None
    best_seeds: Sequence[Result] = ()
    default_seeds: Sequence[Result] = ()
    race: RaceEnd | None = None


class RacePhase:
    """Trains the finalists, the family's default among them, with further seeds until the best is separated.

    Args:
        directory: The run directory.
        default: The family's default architecture.
        full_steps: The number of steps of a full training.
        read_scores: Function that returns the scores of one training.
    """

    def __init__(self, directory: Path, default: Architecture, *, full_steps: int, read_scores: ReadScores) -> None:
        self._directory = directory
        self._default = default
        self._full_steps = full_steps
        self._read_scores = read_scores

    def run(self, context: PhaseContext, best: Result, linear: Result | None) -> Outcome:
        """Train what has not been trained, until the best is separated or the time is over.

        Args:
            context: The search.
            best: The best result of the last stage that any candidate has completed.
            linear: The linear classifier; None if there is none.

        Raises:
            StudyError: If a stored training is damaged, or another search's.
            TrainingError: If training fails the same way repeatedly.
        """
        default = self._default_result(context)
        if best.stage != "full":
            return Outcome(best, default, linear)
        finalists = [result for result in context.study.results("full") if context.objectives.is_eligible(result)]
        entries: dict[Racer, Result] = {CandidateKey(result.trial): result for result in finalists}
        simple: dict[str, Racer] = {}
        if linear is not None:
            simple["linear"] = LinearKey()
            entries[LinearKey()] = linear
        if default is not None and context.objectives.is_eligible(default):
            simple["default"] = default.key if isinstance(default.key, CandidateKey) else DefaultKey()
            entries.setdefault(simple["default"], default)
        plan = RacePlan(context, entries, full_steps=self._full_steps, read_scores=self._read_scores)
        self._check_all(context, [result for racer in entries for result in plan.trainings(racer)])
        if plan.standing().wanted and "race" not in context.clock.deadlines.left_out:
            context.run_plan(
                "race",
                plan,
                deadline_seconds=context.clock.deadlines.total_seconds,
                counts=lambda: (sum(len(plan.trainings(racer)) for racer in entries), None),
            )
        end, field = plan.end(), plan.field()
        winner = next(racer for racer in end.ranked if isinstance(racer, CandidateKey))
        best_seeds = plan.trainings(winner)
        default_seeds = plan.trainings(simple["default"]) if "default" in simple else [default] if default else []
        return Outcome(
            best=preferred(best_seeds),
            default=preferred(default_seeds) if default_seeds else None,
            linear=linear,
            best_seeds=best_seeds,
            default_seeds=default_seeds,
            race=RaceEnd(field, end, winner, simple),
        )

    def _default_result(self, context: PhaseContext) -> Result | None:
        """Return the default's full training, which was one of the finalists."""
        for result in context.study.results("full"):
            if result.architecture == self._default:
                return result
        stored = read_default_result(self._directory)
        if stored is not None:
            self._check_own(context, stored, self._default, DEFAULT_RESULT)
        return stored

    def _check_all(self, context: PhaseContext, results: Sequence[Result]) -> None:
        """Check that all stored trainings with further seeds are those of this search."""
        for result in results:
            if isinstance(result.key, RerunKey):
                self._check_own(context, result, result.architecture, RERUNS)

    def _check_own(self, context: PhaseContext, stored: Result, architecture: Architecture, name: str) -> None:
        """Check that a stored training is one of this search, which its architecture, seed and length tell.

        Raises:
            StudyError: If it is not.
        """
        number = stored.key.number if isinstance(stored.key, RerunKey) else 0
        seed = job_seed(context.config.seed, "full", architecture, rerun=number)
        expected = (architecture, seed, self._full_steps)
        found = (stored.architecture, stored.seed, stored.step_count)
        if found != expected:
            shown = [f"{fusion} with seed {seed} and {steps} steps" for fusion, seed, steps in (expected, found)]
            raise StudyError(
                f"{self._directory / name}: holds a training of another search; expected {shown[0]}, got {shown[1]}; "
                "delete it to repeat its trainings"
            )
