"""A short or full training: its recipe, pretraining and steps, and the evaluations of a full one between them."""

import json
import math
from collections.abc import Callable

import torch
from torch import Tensor

from nas.common.errors import TrainingError
from nas.config.schema import Config
from nas.config.training_schema import LearningRatesConfig, RecipeConfig
from nas.data.features.store import FeatureSplit
from nas.execution.special_jobs import soft_targets_of
from nas.execution.worker_setup import WorkerSetup
from nas.models.fusion.base import FusionModel
from nas.search.keys import CandidateKey, DefaultKey, DistilledKey, RerunKey, VariantKey
from nas.search.trial import Job
from nas.training.checkpoint import save_weights, training_facts
from nas.training.distributed import GradientGroup
from nas.training.evaluate import predict_logits
from nas.training.kept_logits import keep_logits
from nas.training.linear_start import start_classifiers
from nas.training.loss_curve import LossCurve, LossPoint, evaluated_steps, evaluation_count
from nas.training.metrics import evaluate_logits
from nas.training.pretraining.checkpoint import PretrainingCheckpoint
from nas.training.pretraining.pretrain import pretrain
from nas.training.pretraining.settings import PretrainingSettings
from nas.training.trainer import Steps, train_steps

_KEEP_LOGITS = (CandidateKey, DefaultKey, RerunKey, VariantKey, DistilledKey)
"""The keys of trainings whose validation logits are kept."""


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


def batch_size_of(job: Job, config: Config) -> int:
    """Return the number of samples that are computed at once, so that a job fits its memory.

    Args:
        job: The job.
        config: The configuration of the search.
    """
    return math.ceil(config.recipe.batch_size / job.micro_batches)


def train_model(
    job: Job,
    model: FusionModel,
    split: FeatureSplit,
    validation: FeatureSplit,
    setup: WorkerSetup,
    *,
    group: GradientGroup,
    should_stop: Callable[[], bool],
    on_start: Callable[[LossCurve], None],
) -> Tensor | None:
    """Train the model of a short or full training in place, evaluate it and store its weights.

    Processes that share a full training prepare the same model each, which is not one with a pretraining, and evaluate
    it between steps: while one did, the others could only wait. The first evaluates and stores it at the end.

    Args:
        job: The training.
        model: The model with its initial weights.
        split: The training samples.
        validation: The samples on which it is evaluated.
        setup: The setup of the worker.
        group: The processes that share the steps.
        should_stop: Called before every step.
        on_start: Callback that receives a learning curve before its first step.

    Returns:
        The logits on validation, (N, C); None in a process that is not the first.

    Raises:
        StopRequested: If `should_stop` returned true.
        TrainingError: If the loss is not finite.
        GroupBroken: If a process of the group is lost.
        OSError: If a file cannot be written.
    """
    recipe, size = recipe_of(job, setup.config), batch_size_of(job, setup.config)
    earlier: tuple[LossPoint, ...] = ()
    if job.stage == "full":
        earlier = _pretrain(job, model, split, setup, should_stop=should_stop, on_start=on_start)
        start_classifiers(model, split, recipe, batch_size=size, should_stop=should_stop)
    curve = LossCurve(job.identity, job.step_count, len(split) / recipe.batch_size, earlier=earlier)
    on_start(curve)
    train_steps(
        model=model,
        split=split,
        recipe=recipe,
        steps=Steps(job.step_count, job.seed, job.micro_batches, group),
        soft_targets=soft_targets_of(job.key, setup.run_directory, split, model.num_classes),
        should_stop=should_stop,
        on_step=curve.add,
        after_step=curve_evaluation(job, model, validation, recipe, curve, size, should_stop),
    )
    if group.rank:
        return None
    logits = predict_logits(model, validation, batch_size=size, precision=recipe.precision, should_stop=should_stop)
    save_weights(setup.weights_path(job.key, job.stage), model, **training_facts(job))
    setup.pretraining_path(job.key).unlink(missing_ok=True)
    if job.stage == "full" and isinstance(job.key, _KEEP_LOGITS):
        keep_logits(setup.logits_path(job.key), logits, job)
    return logits


def _pretrain(
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
