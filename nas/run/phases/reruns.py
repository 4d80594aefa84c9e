"""Train the best and the default again with new seeds, to see how much of a score is luck."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.common.errors import StudyError
from nas.run.phases.context import PhaseContext
from nas.run.reruns import DEFAULT_RESULT, RERUNS, read_default_result
from nas.search.keys import RerunKey, Role
from nas.search.space import Architecture
from nas.search.trial import Job, Result, job_seed


@dataclass(frozen=True)
class Outcome:
    """The outcome of a search.

    Args:
        best: The best result on validation of the last stage that any candidate has completed; None if none of them
            meets the constraints, or no candidate was scored.
        default: The full training of the family's default; None if it does not fit, has failed, or had no time.
        best_again: The trainings of the best architecture with new seeds.
        default_again: The trainings of the default with new seeds.
        linear: The linear classifier on the frozen encoders; None if the time was over before it was solved.
    """

    best: Result | None
    default: Result | None = None
    best_again: Sequence[Result] = ()
    default_again: Sequence[Result] = ()
    linear: Result | None = None


class RerunPhase:
    """Trains the best and the family's default with new seeds, on top of the budget.

    Args:
        directory: The run directory.
        default: The family's default architecture.
        full_steps: The number of steps of a full training.
    """

    def __init__(self, directory: Path, default: Architecture, *, full_steps: int) -> None:
        self._directory = directory
        self._default = default
        self._full_steps = full_steps

    def run(self, context: PhaseContext, best: Result) -> Outcome:
        """Train what has not been trained.

        Args:
            context: The search.
            best: The best result of the last stage that any candidate has completed.

        Raises:
            StudyError: If the stored training of the default is damaged.
            TrainingError: If training fails the same way repeatedly.
        """
        default = self._default_result(context)
        if best.stage == "full":
            self._train_again(context, {"best": best} if default is None else {"best": best, "default": default})
        return Outcome(
            best=best,
            default=default,
            best_again=_reruns_of(context, best),
            default_again=() if default is None else _reruns_of(context, default),
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

    def _train_again(self, context: PhaseContext, results: Mapping[Role, Result]) -> None:
        """Run the trainings with new seeds that have no result yet."""
        recorder, seeds = context.recorder, further_seeds(context)
        roles: dict[Architecture, Role] = {}
        for role, result in results.items():
            roles.setdefault(result.architecture, role)
        jobs: list[Job] = []
        for architecture, role in roles.items():
            for number in seeds:
                key = RerunKey(role, number)
                stored = recorder.reruns.get(architecture, key)
                if stored is not None:
                    self._check_own(context, stored, architecture, RERUNS)
                else:
                    job = context.jobs.job(key, architecture, "full", self._full_steps)
                    if job is not None:
                        jobs.append(job)
        if not jobs:
            return
        recorder.planned_reruns = len(roles) * len(seeds)
        recorder.done_reruns = recorder.planned_reruns - len(jobs)
        context.reporter.note(
            f"Confirming: the best architecture and the {self._default.title} default, {len(seeds)} new seed(s) each, "
            "on top of the budget"
        )
        context.run_extra(jobs, counts=lambda: (recorder.done_reruns, recorder.planned_reruns))


def further_seeds(context: PhaseContext) -> range:
    """Return the numbers of the new seeds; 0 is the seed of the search itself."""
    return range(1, context.config.search.rerun_seeds + 1)


def _reruns_of(context: PhaseContext, result: Result) -> list[Result]:
    """Return the trainings of an architecture with new seeds."""
    store = context.recorder.reruns
    found = [store.get(result.architecture, RerunKey("best", number)) for number in further_seeds(context)]
    return [entry for entry in found if entry is not None]
