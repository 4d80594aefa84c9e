"""Find the answer of a search: race the finalists, the family's default among them, with further seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nas.common.errors import StudyError
from nas.run.ensemble import EnsembleChoice
from nas.run.phases.context import PhaseContext
from nas.run.phases.distillation import Distilled
from nas.run.phases.race_plan import RacePlan, Racer, ReadScores, preferred
from nas.run.reruns import RERUNS, read_simple_result, simple_result_path
from nas.run.roles import BEST, DEFAULT, SIMPLE_MODELS
from nas.search.keys import CandidateKey, RerunKey
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
        simple: The simpler models by their roles, the simplest first; of several seeds the one that validation
            prefers. One that does not fit, has failed, or had no time is missing.
        seeds: All trainings of the best architecture and of the simpler models, by role; empty if there was no race.
        race: The end of the race; None if there was none.
        choice: The ensemble of the run, if it was chosen to be distilled.
        distilled: The distilled model; None if there is none.
    """

    best: Result | None
    simple: Mapping[str, Result] = field(default_factory=dict)
    seeds: Mapping[str, Sequence[Result]] = field(default_factory=dict)
    race: RaceEnd | None = None
    choice: EnsembleChoice | None = None
    distilled: Distilled | None = None


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

    def run(self, context: PhaseContext, best: Result, solved: Mapping[str, Result]) -> Outcome:
        """Train what has not been trained, until the best is separated or the time is over.

        Args:
            context: The search.
            best: The best result of the last stage that any candidate has completed.
            solved: The simpler models that are solved, by their roles.

        Raises:
            StudyError: If a stored training is damaged, or another search's.
            TrainingError: If training fails the same way repeatedly.
        """
        default = self._default_result(context)
        first = dict(solved) | ({} if default is None else {DEFAULT: default})
        if best.stage != "full":
            return Outcome(best, {model.role: first[model.role] for model in SIMPLE_MODELS if model.role in first})
        finalists = [result for result in context.study.results("full") if context.objectives.is_eligible(result)]
        entries: dict[Racer, Result] = {CandidateKey(result.trial): result for result in finalists}
        simple: dict[str, Racer] = {}
        for model in SIMPLE_MODELS:
            result = first.get(model.role)
            if result is not None and (model.is_solved or context.objectives.is_eligible(result)):
                simple[model.role] = result.key if isinstance(result.key, CandidateKey) else model.key
                entries.setdefault(simple[model.role], result)
        plan = RacePlan(context, entries, full_steps=self._full_steps, read_scores=self._read_scores)
        self._check_all(context, [result for racer in entries for result in plan.trainings(racer)])
        if plan.standing().wanted and "race" not in context.clock.deadlines.left_out:
            context.run_plan(
                "race",
                plan,
                deadline_seconds=context.clock.deadlines.race_seconds,
                counts=lambda: (sum(len(plan.trainings(racer)) for racer in entries), None),
            )
        end, scores = plan.end(), plan.field()
        winner = next(racer for racer in end.ranked if isinstance(racer, CandidateKey))
        seeds = {
            model.role: plan.trainings(simple[model.role]) if model.role in simple else [first[model.role]]
            for model in SIMPLE_MODELS
            if model.role in first
        }
        best_seeds = plan.trainings(winner)
        return Outcome(
            best=preferred(best_seeds),
            simple={role: preferred(trainings) for role, trainings in seeds.items()},
            seeds={BEST: best_seeds, **seeds},
            race=RaceEnd(scores, end, winner, simple),
        )

    def _default_result(self, context: PhaseContext) -> Result | None:
        """Return the default's full training, which was one of the finalists."""
        for result in context.study.results("full"):
            if result.architecture == self._default:
                return result
        stored = read_simple_result(self._directory, DEFAULT)
        if stored is not None:
            self._check_own(context, stored, self._default, simple_result_path(self._directory, DEFAULT).name)
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
