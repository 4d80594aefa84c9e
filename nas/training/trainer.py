"""Train a model for a number of steps.

A training depends on the recipe, the features, the initial weights and a seed only. The seed alone determines batch k,
so that a training interrupted at step k resumes without a difference.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from nas.common.devices import computing_in, has_fused_updates
from nas.config.training_schema import RecipeConfig
from nas.data.features.store import Batch, FeatureSplit
from nas.models.fusion.base import FusionModel
from nas.search.space import Architecture
from nas.training.batches import BatchSchedule, BatchSelection, features_of_batch, read_ahead
from nas.training.contrastive import ContrastiveLoss, build_objective
from nas.training.distributed import GradientGroup, SingleProcessGroup
from nas.training.gradient_sum import GradientSum
from nas.training.losses import Loss, class_probabilities
from nas.training.optimizer import build_optimizer, set_learning_rates
from nas.training.soft_targets import Distillation, SoftTargets
from nas.training.step_losses import StepLosses
from nas.training.stopping import StopRequested


def learning_rate_factor(step: int, step_count: int, recipe: RecipeConfig) -> float:
    """Return the fraction of the peak learning rate at a step: linear warm-up, then constant or a half cosine to zero.

    Args:
        step: The number of the step, from 0.
        step_count: The total number of steps.
        recipe: The recipe with schedule and warm-up.
    """
    warmup = math.ceil(recipe.warmup_fraction * step_count)
    if step < warmup:
        return (step + 1) / warmup
    if recipe.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(step_count - warmup, 1)))


def full_step_count(recipe: RecipeConfig, sample_count: int) -> int:
    """Return the number of steps of the complete recipe."""
    return recipe.step_count(sample_count)


class Trainer:
    """Optimizer and learning rate schedule of one training.

    Args:
        model: The model; its parameters are trained in place.
        recipe: Optimizer, learning rates, schedule and precision.
        step_count: The total number of steps, which the schedule spans.
        loss: The loss to minimize.
        group: The processes that share every `step`, each with a part of the batch; by default this one.

    Raises:
        GroupBroken: If a process of the group is lost.
        ValueError: If a group is to share a contrastive loss.
    """

    def __init__(
        self,
        *,
        model: FusionModel,
        recipe: RecipeConfig,
        step_count: int,
        loss: Loss | ContrastiveLoss,
        group: GradientGroup | None = None,
    ) -> None:
        group = group or SingleProcessGroup()
        if group.size > 1 and isinstance(loss, ContrastiveLoss):
            raise ValueError("loss: compares the rows of a batch with each other, so that processes cannot divide it")
        self.model = model
        self.recipe = recipe
        self.step_count = step_count
        self.device = model.device
        self.loss = loss.to(self.device)
        self.optimizer = build_optimizer(model, recipe, self.device)
        self.losses = StepLosses(self.device)
        """The losses of the steps; `finish` them before the weights are saved."""
        self._sum = GradientSum(model, group)
        self._sum.share_weights()

    def step(
        self,
        index: int,
        micro_batches: Iterable[Batch],
        total_weight: float,
        architecture: Architecture | None = None,
        distillation: Distillation | None = None,
    ) -> None:
        """Train one step on one batch; `losses` receives the loss before the step.

        Args:
            index: The number of the step, from 0.
            micro_batches: The part of the batch that this process has, which is all of it unless a group shares the
                step, in micro-batches that are read at the entry layers of the architecture.
            total_weight: The total weight of the whole batch, from `Loss.total_weight`.
            architecture: The slice to train; the architecture of the model by default.
            distillation: The targets of a teacher, if any.

        Raises:
            TrainingError: If a loss is not finite.
            GroupBroken: If a process of the group is lost.
        """
        self.optimizer.zero_grad(set_to_none=True)  # before the forward pass, to free the previous gradients
        loss = self.accumulate_gradients(micro_batches, total_weight, architecture, distillation)
        loss = self._sum.add_up(loss)
        self.apply(index, loss[None], [architecture or self.model.architecture])

    def accumulate_gradients(
        self,
        micro_batches: Iterable[Batch],
        total_weight: float,
        architecture: Architecture | None = None,
        distillation: Distillation | None = None,
    ) -> Tensor:
        """Run the forward and backward passes, which determine the peak memory of a step; add to the gradients.

        Losses are summed and divided by the weight of the whole batch, so that the gradients do not depend on the
        division into micro-batches.

        Args:
            micro_batches: The micro-batches, read one at a time.
            total_weight: The total weight of all samples of the step.
            architecture: The slice to train; the architecture of the model by default.
            distillation: The targets of a teacher, if any.

        Returns:
            The loss, 0-dimensional.
        """
        losses = []
        for index, micro_batch in enumerate(micro_batches):
            batch = micro_batch.to(self.device)
            with self._computing():
                loss = self._loss_sum(batch, architecture, distillation, index) / total_weight
            if loss.requires_grad:  # unless nothing is trained
                torch.autograd.backward(loss)
            losses.append(loss.detach())
            del micro_batch, batch, loss  # freed before the next one is read
        return torch.stack(losses).sum() if losses else torch.zeros((), device=self.device)

    def _loss_sum(
        self, batch: Batch, architecture: Architecture | None, distillation: Distillation | None, index: int
    ) -> Tensor:
        """Return the sum of the losses of a micro-batch, which is the one with this index of the targets of a teacher.

        The contrastive loss compares the rows of a batch with each other, so that the batch is not divided.
        """
        if isinstance(self.loss, ContrastiveLoss):
            return self.loss.batch_sum(self.model, features_of_batch(batch), batch.labels, architecture)
        logits = self.model(features_of_batch(batch), architecture)
        loss = self.loss.weighted_sum(logits, batch.labels)
        if distillation is None:
            return loss
        distillation_loss = self.loss.distillation_sum(
            logits, distillation.teacher_probabilities[index], batch.labels, distillation.temperature
        )
        return (1.0 - distillation.weight) * loss + distillation.weight * distillation_loss

    @torch.no_grad()
    def teacher_probabilities(self, micro_batches: Iterable[Batch], teacher: Architecture) -> list[Tensor]:
        """Compute the class probabilities of a slice, (B, C) per micro-batch."""
        found = []
        for micro_batch in micro_batches:
            batch = micro_batch.to(self.device)
            with self._computing():
                found.append(class_probabilities(self.model(features_of_batch(batch), teacher), batch.labels))
        return found

    def _computing(self) -> AbstractContextManager[object]:
        return computing_in(self.recipe.precision, self.device)

    def apply(self, index: int, losses: Tensor, architectures: Sequence[Architecture]) -> None:
        """Update the weights with the accumulated gradients.

        Args:
            index: The number of the step, from 0.
            losses: The parts whose sum is the loss of the step, (K,).
            architectures: The architectures that were trained in the step.

        Raises:
            TrainingError: If a loss is not finite.
        """
        self.losses.add(index, losses)
        self.update(index, architectures)

    def update(self, index: int, architectures: Sequence[Architecture]) -> None:
        """Update the weights with the accumulated gradients, whatever the loss; see `apply`."""
        self._set_learning_rates(index, architectures)
        if self.recipe.clip_norm is not None:
            # On a GPU, all tensors at once: kernels cost more than the second set of gradients.
            nn.utils.clip_grad_norm_(
                self.model.parameters(), self.recipe.clip_norm, foreach=has_fused_updates(self.device)
            )
        self.optimizer.step()

    def _set_learning_rates(self, index: int, architectures: Sequence[Architecture]) -> None:
        counts = [architecture.prompted_layers(self.model.sizes) for architecture in architectures]
        factor = learning_rate_factor(index, self.step_count, self.recipe)
        set_learning_rates(self.optimizer, factor, counts, self.recipe)


@dataclass(frozen=True)
class Steps:
    """The steps of a training.

    Args:
        count: The number of steps, which the schedule of the learning rate spans.
        seed: The seed of the sample order.
        micro_batches: The number of micro-batches per batch; affects memory, and results only by rounding.
        group: The processes that share the steps; by default this one. No contrastive loss can be shared, which
            compares the samples of a batch with each other.
    """

    count: int
    seed: int
    micro_batches: int = 1
    group: GradientGroup = field(default_factory=SingleProcessGroup)


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
    """Train a standalone model in place.

    Args:
        model: The model with its initial weights.
        split: The training samples.
        recipe: Optimizer, learning rates and schedule; the schedule spans `step_count`.
        step_count: The number of steps.
        seed: The seed of the sample order.
        micro_batches: The number of micro-batches per batch; affects memory, and results only by rounding.
        should_stop: Called before every step; training stops when it returns true.
        on_step: Callback that receives the number of a step, from 1, and its loss; see `StepLosses`.

    Raises:
        StopRequested: If `should_stop` returned true.
        TrainingError: If the loss is not finite.
    """
    steps = Steps(step_count, seed, micro_batches)
    train_steps(model=model, split=split, recipe=recipe, steps=steps, should_stop=should_stop, on_step=on_step)


def train_steps(
    *,
    model: FusionModel,
    split: FeatureSplit,
    recipe: RecipeConfig,
    steps: Steps,
    soft_targets: SoftTargets | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    after_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Train a standalone model in place on the labels, and on the probabilities of a teacher where there is one.

    A family that trains nothing has no steps. All processes of a group call this function with the same training; each
    reads a part of every batch, and all end with the weights of a single process up to rounding.

    Args:
        model: The model with its initial weights.
        split: The training samples.
        recipe: Optimizer, learning rates and schedule.
        steps: The steps.
        soft_targets: The probabilities of the teacher for all samples of the split.
        should_stop: Called before every step; training stops when it returns true in any process.
        on_step: Callback that receives the number of a step, from 1, and its loss; see `StepLosses`.
        after_step: Callback that receives the number of each step, from 1, while the model has the weights after it.

    Raises:
        StopRequested: If `should_stop` returned true.
        TrainingError: If the loss is not finite.
        GroupBroken: If a process of the group is lost.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return  # steps would change nothing
    loss = build_objective(recipe, split.labels, model.num_classes)
    trainer = Trainer(model=model, recipe=recipe, step_count=steps.count, loss=loss, group=steps.group)
    schedule = BatchSchedule(len(split), recipe.batch_size, steps.seed)

    def own_part(step: int) -> tuple[BatchSelection, int]:
        return schedule.select(split, step).part(steps.group.rank, steps.group.size, steps.micro_batches)

    reads = (
        read for part, count in map(own_part, range(steps.count)) for read in part.reads(model.entry_layers(), count)
    )
    batches, numbers = read_ahead(reads, trainer.device), itertools.count(1)
    for step in range(steps.count):
        if steps.group.any(should_stop()):
            raise StopRequested
        part, count = own_part(step)
        inputs = itertools.islice(batches, min(count, len(part.indices)))
        distillation = None
        if soft_targets is not None and count:
            distillation = soft_targets.of_batch(part.indices, count, trainer.device)
        total_weight = loss.total_weight(schedule.select(split, step).labels)
        trainer.step(step, inputs, total_weight, distillation=distillation)
        after_step(step + 1)
        for known in trainer.losses.take():
            on_step(next(numbers), known)
    trainer.losses.finish()
    for known in trainer.losses.take():
        on_step(next(numbers), known)
