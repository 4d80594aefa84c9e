"""What comes before and between the steps of a training: its recipe, pretraining, and evaluations of a full one."""

import json
from collections.abc import Callable

import torch

from nas.common.errors import TrainingError
from nas.config.schema import Config
from nas.config.training_schema import LearningRatesConfig, RecipeConfig
from nas.data.features.store import FeatureSplit
from nas.execution.worker_setup import WorkerSetup
from nas.models.fusion.base import FusionModel
from nas.search.trial import Job
from nas.training.checkpoint import training_facts
from nas.training.evaluate import predict_logits
from nas.training.loss_curve import LossCurve, LossPoint, evaluated_steps, evaluation_count
from nas.training.metrics import evaluate_logits
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


_FORWARDS_PER_STEP = 3
"""A training step costs about as much as this many forward passes of its samples."""


def curve_evaluation(
    job: Job,
    model: FusionModel,
    validation: FeatureSplit,
    recipe: RecipeConfig,
    curve: LossCurve,
    batch_size: int,
    should_stop: Callable[[], bool],
) -> Callable[[int], None]:
    """Return the function to call after each step, which evaluates a full training a few times for its learning curve.

    The number of evaluations depends on numbers of samples alone, and nothing of the training on them: no layer has
    dropout, and the gradients that are freed are those that the next step would free. It is 0 for short trainings, by
    whose time candidates are compared.

    Args:
        job: The training.
        model: Its model.
        validation: The samples to evaluate it on.
        recipe: Its recipe.
        curve: Receives the metrics.
        batch_size: The number of samples per batch of an evaluation.
        should_stop: Called before every batch.
    """
    count = 0
    if job.stage == "full":
        count = evaluation_count(_FORWARDS_PER_STEP * job.step_count * recipe.batch_size, len(validation))
    places = evaluated_steps(job.step_count, count)

    def after_step(step: int) -> None:
        if step not in places:
            return
        model.zero_grad(set_to_none=True)  # so that an evaluation needs no more memory than a step
        try:
            logits = predict_logits(
                model, validation, batch_size=batch_size, precision=recipe.precision, should_stop=should_stop
            )
        except TrainingError:  # the point is left out; whether the training has failed is decided by its end
            return
        curve.evaluate(step, evaluate_logits(logits, torch.from_numpy(validation.labels)))

    return after_step
