"""Make the jobs of a search."""

from nas.config.schema import Config
from nas.run.feasibility import Feasibility
from nas.search.keys import DistilledKey, ModelKey, RecipeKey, RerunKey
from nas.search.recipe_tuning import SETTINGS, RecipeSetting
from nas.search.space import Architecture
from nas.search.trial import Job, Stage, job_seed

_LEAST_PART = 16
"""The number of samples below which a device takes no less time for a step, as the launches of kernels then take most
of it: by the arithmetic of docs/scale.md for encoders of base size on an H100."""


class JobFactory:
    """Makes jobs, with a seed that depends on nothing but the model, and with the predicted peak.

    Args:
        config: The configuration of the search.
        feasibility: The rule for what fits the memory budget.
        recipe: The setting of the recipe.
    """

    def __init__(self, config: Config, feasibility: Feasibility, recipe: RecipeSetting) -> None:
        self._seed = config.seed
        self._most_devices = _most_devices(config)
        self._feasibility = feasibility
        self._recipe = recipe

    def job(self, key: ModelKey, architecture: Architecture, stage: Stage, step_count: int) -> Job | None:
        """Return the job of one stage of one model; None if it does not fit. Every rerun has its own seed.

        Args:
            key: The key of the model.
            architecture: The architecture of the model.
            stage: The stage.
            step_count: The number of training steps.
        """
        fit = self._feasibility.fit(architecture)
        if fit is None:
            return None
        return Job(
            key=key,
            architecture=architecture,
            stage=stage,
            step_count=step_count,
            seed=job_seed(self._seed, stage, architecture, rerun=_seed_number(key)),
            predicted_peak_bytes=fit.peak_bytes,
            micro_batches=fit.micro_batches,
            correction_bytes=fit.correction_bytes,
            recipe=SETTINGS[key.setting] if isinstance(key, RecipeKey) else self._recipe,
            most_devices=self._most_devices if stage == "full" and step_count else 1,
        )


def _seed_number(key: ModelKey) -> int:
    """Return the number of the seed of a training, 0 for the search's own."""
    match key:
        case RerunKey(number=number) | RecipeKey(seed=number) | DistilledKey(number=number):
            return number
        case _:
            return 0


def _most_devices(config: Config) -> int:
    """Return the largest number of devices that may share a full training.

    The rounding of a gradient depends on how its batch is divided, so that a deterministic search divides none. A
    contrastive loss and the objectives of a pretraining compare the samples of a batch with each other.
    """
    if config.deterministic or config.data.is_retrieval or config.pretraining.steps:
        return 1
    return max(config.recipe.batch_size // _LEAST_PART, 1)
