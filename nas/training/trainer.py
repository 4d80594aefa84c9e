"""Train a model for some steps.

Everything here is a function of the recipe, the features, the weights it starts from and a seed: batch k of a training
is found from the seed alone, so that a training stopped at step k goes on as if it had never been stopped.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nas.common.errors import TrainingError
from nas.config.schema import RecipeConfig
from nas.data.features.store import Batch, FeatureSplit
from nas.models.fusion.base import FusionModel
from nas.search.space import Architecture
from nas.training.batches import BatchSchedule, Stopped, features_of_batch
from nas.training.losses import Loss, loss_of, probabilities


def learning_rate_factor(step: int, step_count: int, recipe: RecipeConfig) -> float:
    """Share of the peak learning rate at a step (from 0): linear warm-up, then constant or half a cosine to zero."""
    warmup = math.ceil(recipe.warmup_fraction * step_count)
    if step < warmup:
        return (step + 1) / warmup
    if recipe.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(step_count - warmup, 1)))


def full_step_count(recipe: RecipeConfig, sample_count: int) -> int:
    """Steps of the whole recipe."""
    return recipe.epochs * BatchSchedule(sample_count, recipe.batch_size, seed=0).steps_per_epoch


class Trainer:
    """Optimiser and schedule of one training; `step` does one step.

    Args:
        model: Its parameters are trained in place.
        recipe: Optimiser, learning rates, schedule.
        step_count: Length of the whole training, which the schedule spans.
        loss: What is minimised.
    """

    def __init__(self, *, model: FusionModel, recipe: RecipeConfig, step_count: int, loss: Loss) -> None:
        self.model = model
        self.recipe = recipe
        self.step_count = step_count
        self.device = next(model.parameters()).device
        self.loss = loss.to(self.device)
        self.optimizer = _optimizer(model, recipe)

    def step(
        self, index: int, parts: Iterable[Batch], total_weight: float, architecture: Architecture | None = None
    ) -> float:
        """One step on one batch; its loss is the weighted sum over the batch's total weight.

        Args:
            index: Number of the step, from 0.
            parts: The batch, in one or more micro-batches, as the architecture that is trained reads it.
            total_weight: Of all of them, from `Loss.total_weight`.
            architecture: The slice to train; the model's own architecture by default.

        Returns:
            The loss before the step.

        Raises:
            TrainingError: If the loss is not finite.
        """
        self.optimizer.zero_grad(set_to_none=True)  # before the forward, so that old gradients are not held through it
        loss = float(self.accumulate_gradients(parts, total_weight, architecture))
        self.apply(index, loss, [architecture or self.model.architecture])
        return loss

    def accumulate_gradients(
        self,
        parts: Iterable[Batch],
        total_weight: float,
        architecture: Architecture | None = None,
        lessons: Sequence[Tensor] | None = None,
        distillation: float = 0.0,
    ) -> Tensor:
        """Forward and backward, the part of a step that decides its peak of memory; adds to the gradients there are.

        Losses are summed and divided by the whole batch's weight, so gradients are the same however a batch is cut.

        Args:
            parts: Micro-batches, read one at a time.
            total_weight: Of all samples of the step.
            architecture: The slice; the model's own architecture by default.
            lessons: Of every micro-batch, the probabilities that a teacher gives its classes, (B, C).
            distillation: Part of the loss that compares with them, instead of with the labels.

        Returns:
            The loss, 0-dimensional.
        """
        losses = []
        for index, part in enumerate(parts):
            batch = part.to(self.device)
            logits = self.model(features_of_batch(batch), architecture)
            share = self.loss.summed(logits, batch.labels)
            if lessons is not None:
                distance = self.loss.distance(logits, lessons[index], batch.labels)
                share = (1.0 - distillation) * share + distillation * distance
            share = share / total_weight
            torch.autograd.backward(share)
            losses.append(share.detach())
            del part, batch, logits, share  # before the next is read
        return torch.stack(losses).sum()

    @torch.no_grad()
    def lessons(self, parts: Iterable[Batch], teacher: Architecture) -> list[Tensor]:
        """What a slice says of a batch: probabilities of the classes, (B, C) of every micro-batch."""
        batches = (part.to(self.device) for part in parts)
        return [probabilities(self.model(features_of_batch(batch), teacher), batch.labels) for batch in batches]

    def apply(self, index: int, loss: float, architectures: Sequence[Architecture]) -> None:
        """Change the weights by the gradients that were accumulated.

        Args:
            index: Number of the step, from 0.
            loss: Of the step.
            architectures: Those that were trained in it.

        Raises:
            TrainingError: If the loss is not finite.
        """
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at step {index}; lower recipe.learning_rates or set recipe.clip_norm"
            )
        self._set_learning_rates(index, architectures)
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm, foreach=False)
        self.optimizer.step()

    def _set_learning_rates(self, index: int, architectures: Sequence[Architecture]) -> None:
        factor = learning_rate_factor(index, self.step_count, self.recipe)
        counts = [architecture.prompted_layers(self.model.sizes) for architecture in architectures]
        scale = sum(count**-self.recipe.depth_scaling for count in counts) / len(counts)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor * (scale if group["is_scaled"] else 1.0)


def _kind(name: str) -> str:
    """Which learning rate a parameter has; see `FusionModel`."""
    if name.startswith(("image_encoder.", "text_encoder.")):
        return "encoders"
    return "classifiers" if "classifier" in name else "prompts" if "prompts" in name else "mappings"


def _optimizer(model: FusionModel, recipe: RecipeConfig) -> torch.optim.Optimizer:
    members: dict[str, list[nn.Parameter]] = {"prompts": [], "mappings": [], "classifiers": [], "encoders": []}
    for name, parameter in model.named_parameters():
        members[_kind(name)].append(parameter)
    groups = [
        {
            "params": parameters,
            "peak": getattr(recipe.learning_rates, kind),
            "is_scaled": kind in ("prompts", "mappings"),
        }
        for kind, parameters in members.items()
        if parameters
    ]
    # One tensor after the other, as on CPUs: all at once would take a second set of gradients.
    options: dict[str, Any] = {"lr": 0.0, "weight_decay": recipe.weight_decay, "foreach": False}
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=recipe.momentum, **options)
    return torch.optim.AdamW(groups, betas=(recipe.momentum, 0.999), **options)


def train(
    *,
    model: FusionModel,
    split: FeatureSplit,
    recipe: RecipeConfig,
    step_count: int,
    seed: int,
    micro_batches: int = 1,
    should_stop: Callable[[], bool] = lambda: False,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """Train a stand-alone model in place for a number of steps.

    Args:
        model: Starts from whatever weights it has.
        split: Training samples.
        recipe: How; its schedule spans `step_count`.
        step_count: How long.
        seed: Decides the order of samples.
        micro_batches: Parts that every batch is cut into; changes memory, and no result beyond rounding.
        should_stop: Asked before every step.
        on_step: Told steps done and the last loss.

    Raises:
        Stopped: If `should_stop` said so.
        TrainingError: If the loss is not finite.
    """
    loss = loss_of(recipe, split.labels, model.num_classes)
    trainer = Trainer(model=model, recipe=recipe, step_count=step_count, loss=loss)
    schedule = BatchSchedule(len(split), recipe.batch_size, seed)
    for step in range(step_count):
        if should_stop():
            raise Stopped
        samples = schedule.samples(split, step)
        parts = samples.parts(model.entry_layers(), micro_batches)
        on_step(step + 1, trainer.step(step, parts, loss.total_weight(samples.labels)))
