"""What comes before the steps of a short or full training: its recipe, and the pretraining of its model."""

import json
from collections.abc import Callable

from nas.config.schema import Config
from nas.config.training_schema import LearningRatesConfig, RecipeConfig
from nas.data.features.store import FeatureSplit
from nas.execution.worker_setup import WorkerSetup
from nas.models.fusion.base import FusionModel
from nas.search.trial import Job
from nas.training.checkpoint import training_facts
from nas.training.loss_curve import LossCurve, LossPoint
from nas.training.pretraining.checkpoint import PretrainingCheckpoint
from nas.training.pretraining.pretrain import pretrain
from nas.training.pretraining.settings import PretrainingSettings


def recipe_of(job: Job, config: Config) -> RecipeConfig:
    """Return the recipe of a training.

    Args:
        job: The training.
        config: The configuration of the search.
    """
    recipe = config.recipe.with_setting(job.recipe)
    if job.learning_rate is not None:
        # One rate for all parameters, not scaled by the number of layers with prompts.
        recipe = recipe.replace(learning_rates=LearningRatesConfig.of_all(job.learning_rate), depth_scaling=0.0)
    if job.stage == "short":
        scale = config.search.short_training_lr_scale
        recipe = recipe.replace(learning_rates=recipe.learning_rates.scaled(scale))
    return recipe


def pretrain_model(
    job: Job,
    model: FusionModel,
    split: FeatureSplit,
    setup: WorkerSetup,
    *,
    should_stop: Callable[[], bool],
    on_start: Callable[[LossCurve], None],
) -> tuple[LossPoint, ...]:
    """Pretrain the model of a full training in place, if the search has a pretraining.

    It resumes from its checkpoint, which is kept until `setup.pretraining_path` is deleted.

    Args:
        job: The full training.
        model: The model with fresh weights.
        split: The training samples.
        setup: The setup of the worker.
        should_stop: Called before every step.
        on_start: Callback that receives the learning curve of the pretraining before its first step.

    Returns:
        The points of that curve, from where the pretraining was started or resumed; none without a pretraining.

    Raises:
        StopRequested: If `should_stop` returned true.
        TrainingError: If the loss is not finite.
        OSError: If the checkpoint cannot be written.
    """
    recipe = recipe_of(job, setup.config)
    settings = PretrainingSettings.of(setup.config, type(job.architecture), setup.vocabulary, recipe)
    if settings is None:
        return ()
    curve = LossCurve(job.identity, settings.step_count, len(split) / recipe.batch_size, phase="pretraining")
    on_start(curve)
    sections = [settings.config.model_dump(mode="json"), settings.recipe.model_dump(mode="json")]
    facts = {**training_facts(job), "settings": json.dumps(sections, sort_keys=True)}
    pretrain(
        model,
        split,
        settings,
        seed=job.seed,
        checkpoint=PretrainingCheckpoint(setup.pretraining_path(job.key), facts),
        should_stop=should_stop,
        on_step=curve.add,
    )
    return curve.points
