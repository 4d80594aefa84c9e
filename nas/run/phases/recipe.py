"""Tune the recipe on the default architecture, before anything is searched with it."""

from collections.abc import Callable, Mapping, Sequence
from statistics import mean, stdev

from nas.common.errors import StudyError
from nas.execution.plan import Plan
from nas.run.phases.context import PhaseContext
from nas.run.recipe_file import RECIPE, RecipeFile
from nas.search.keys import RecipeKey
from nas.search.recipe_tuning import SETTINGS, TRAININGS, Scores, choose_setting, next_trainings
from nas.search.space import Architecture
from nas.search.trial import Failure, Job, Result, job_seed


class RecipePhase:
    """Trains the default architecture with several settings of the recipe, and chooses one for the search.

    Args:
        default: The family's default architecture; the smallest of the space stands in where it does not fit.
        full_steps: The number of steps of a full training with the recipe as configured.
    """

    def __init__(self, default: Architecture, *, full_steps: int) -> None:
        self._default = default
        self._full_steps = full_steps

    def run(self, context: PhaseContext) -> None:
        """Tune until a setting is chosen, the phase's part of the time is over, or the user interrupts.

        A setting is chosen once: what is computed with it cannot be compared with anything else.

        Args:
            context: The search.

        Raises:
            StudyError: If the stored trainings are those of another search.
            TrainingError: If training fails the same way repeatedly.
        """
        file, clock = context.recorder.recipe, context.clock
        if file.chosen is not None or not context.config.budget.recipe_fraction:
            return
        if context.study.count("one_shot"):  # of a run that was searched without the file
            raise StudyError(
                f"{context.recorder.directory / RECIPE}: is missing; {context.study.count('one_shot')} scores were "
                "computed with the setting it named; restore a copy of it, or search in a new run directory (--run-dir)"
            )
        if "recipe" in clock.deadlines.left_out:
            file.choose(0)  # for good: what follows is computed with it
            return
        architecture = tuned_architecture(context, self._default)
        plan = RecipePlan(context, architecture, self._full_steps)
        plan.check_stored(context)
        context.run_plan(
            "recipe",
            plan,
            deadline_seconds=clock.deadlines.recipe_seconds,
            counts=lambda: (len(file.results()), TRAININGS),
        )
        if clock.is_interrupted:
            return
        file.choose(choose_setting(file.scores()))
        context.reporter.note(_choice_line(file))


def tuned_architecture(context: PhaseContext, default: Architecture) -> Architecture:
    """Return the architecture that a recipe is tried on: the default, or the smallest where the default does not fit.

    Args:
        context: The search.
        default: The family's default architecture.
    """
    return default if context.feasibility.fit(default) else context.config.space.smallest


class RecipePlan(Plan):
    """Trains the settings of one rung after the other.

    Args:
        context: The search.
        architecture: The architecture that is trained.
        full_steps: The number of steps of a full training with the recipe as configured.
        wanted: Function from the trainings so far to the settings and seeds that come next.
    """

    def __init__(
        self,
        context: PhaseContext,
        architecture: Architecture,
        full_steps: int,
        wanted: Callable[[Scores], Sequence[tuple[int, int]]] = next_trainings,
    ) -> None:
        self._file = context.recorder.recipe
        self._jobs = context.jobs
        self._config = context.config
        self._architecture = architecture
        self._full_steps = full_steps
        self._wanted = wanted
        self._running: set[RecipeKey] = set()

    def check_stored(self, context: PhaseContext) -> None:
        """Check that the stored trainings are those of this search, which architecture, seed and length tell.

        Args:
            context: The search.

        Raises:
            StudyError: If one is not.
        """
        for result in self._file.results():
            assert isinstance(result.key, RecipeKey)
            seed = job_seed(self._config.seed, "full", self._architecture, rerun=result.key.seed)
            expected = (self._architecture, seed, self._steps(result.key))
            if (result.architecture, result.seed, result.step_count) != expected:
                raise StudyError(
                    f"{context.recorder.directory / RECIPE}: holds trainings of another search; expected "
                    f"{self._architecture} with {expected[2]} steps and seed {seed}, got {result.architecture} with "
                    f"{result.step_count} steps and seed {result.seed}; delete it to repeat its trainings"
                )

    def next_jobs(self) -> list[Job]:
        jobs: list[Job] = []
        for setting, seed in self._wanted(self._file.scores()):
            key = RecipeKey(setting, seed)
            if key in self._running:
                continue
            job = self._jobs.job(key, self._architecture, "full", self._steps(key))
            if job is None:  # not even the smallest architecture fits: the search says so
                return []
            self._running.add(key)
            jobs.append(job)
            if not self._config.deterministic:
                break
        return jobs

    def _steps(self, key: RecipeKey) -> int:
        return SETTINGS[key.setting].full_steps(self._full_steps)

    def finished(self, result: Result) -> None:
        assert isinstance(result.key, RecipeKey)
        self._running.discard(result.key)

    def rejected(self, failure: Failure) -> None:
        assert isinstance(failure.job.key, RecipeKey)
        self._running.discard(failure.job.key)
        self._file.failed.add(failure.job.key)

    def requeue(self, job: Job) -> None:
        assert isinstance(job.key, RecipeKey)
        self._running.discard(job.key)


def _choice_line(file: RecipeFile) -> str:
    """Return the line about the chosen setting, with the scores of its seeds and of the recipe as configured."""
    scores = file.scores()
    shown = [f"Recipe: {SETTINGS[file.chosen or 0]}{_scores_text(scores, file.chosen or 0)}"]
    if file.chosen:
        shown.append(f"as configured{_scores_text(scores, 0)}")
    return "; ".join(shown)


def _scores_text(scores: Mapping[tuple[int, int], float | None], setting: int) -> str:
    values = [value for (index, _), value in sorted(scores.items()) if index == setting and value is not None]
    if not values:
        return ""
    if len(values) == 1:
        return f" ({values[0]:.3f} with one seed)"
    return f" ({mean(values):.3f}, mean of {len(values)} seeds whose standard deviation is {stdev(values):.3f})"
