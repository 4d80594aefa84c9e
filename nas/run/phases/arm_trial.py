"""Train an arm of a search as far as the arms are compared: the family's default, with the recipe as configured."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from nas.run.phases.context import PhaseContext
from nas.run.phases.recipe import RecipePlan, tuned_architecture
from nas.search.keys import RecipeKey
from nas.search.recipe_tuning import Scores
from nas.search.space import Architecture
from nas.search.trial import Result


@dataclass(frozen=True)
class ArmTrial:
    """What the arms of a search are compared by.

    Args:
        default: The complete trainings of the family's default, in the order of their seeds; None for one that failed.
        linear: The linear classifier on the frozen encoders; None if there was no time for it.
    """

    default: Sequence[Result | None]
    linear: Result | None


class ArmTrialPhase:
    """Trains the default architecture with some seeds.

    These are the first trainings of the tuning of the recipe, which a later search of the arm does not repeat.

    Args:
        default: The family's default architecture; the smallest of the space stands in where it does not fit.
        full_steps: The number of steps of a full training with the recipe as configured.
        seeds: The number of seeds.
    """

    def __init__(self, default: Architecture, *, full_steps: int, seeds: int) -> None:
        self._default = default
        self._full_steps = full_steps
        self._seeds = seeds

    def run(self, context: PhaseContext, deadline_seconds: float) -> list[Result | None]:
        """Train what is not trained yet, until the time of the arm is over or the user interrupts.

        Args:
            context: The search.
            deadline_seconds: The end of the phase in seconds of running time.

        Returns:
            The trainings in the order of their seeds, up to the first that is missing; None for one that failed.

        Raises:
            StudyError: If the stored trainings are those of another search.
            TrainingError: If training fails the same way repeatedly.
        """
        plan = RecipePlan(context, tuned_architecture(context, self._default), self._full_steps, self._wanted)
        plan.check_stored(context)
        context.run_plan(
            "arm",
            plan,
            deadline_seconds=deadline_seconds,
            counts=lambda: (len(context.recorder.recipe.results()), self._seeds),
        )

        known = {result.key: result for result in context.recorder.recipe.results()}
        scores = context.recorder.recipe.scores()
        ended = itertools.takewhile(lambda seed: (0, seed) in scores, range(self._seeds))
        return [known.get(RecipeKey(0, seed)) for seed in ended]

    def _wanted(self, scores: Scores) -> list[tuple[int, int]]:
        return [(0, seed) for seed in range(self._seeds) if (0, seed) not in scores]
