"""Train the weight-sharing supernet; every step trains several sampled architectures.

Several processes can share the architectures of a step. A step depends on the seed and its number only, not on the
number of processes: the gradients of each architecture are computed separately and summed in the same order in every
process. All processes therefore hold the same weights to the last bit, equal to those of a single process.

Every process of a group calls `train_supernet` with the same training. Process r of W computes the architectures r, r
+ W, r + 2W, ... of a step and keeps their gradients until they are sent: at most ⌈K / W⌉ + 2 times the size of the
supernet, including one received gradient and the sum. A single process adds each gradient to the sum at once: at most
3 times. An error in one process closes the group, so that the other processes do not wait for it.
"""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn

from nas.common.seeds import seed_from
from nas.config.training_schema import RecipeConfig
from nas.data.features.store import Batch, FeatureSplit
from nas.models.fusion.base import FusionModel
from nas.search.space import Architecture
from nas.training.batches import BatchSchedule, BatchSelection, read_ahead
from nas.training.checkpoint import TrainingCheckpoint
from nas.training.contrastive import build_objective
from nas.training.distributed import GradientGroup, SingleProcessGroup
from nas.training.linear_start import start_classifiers
from nas.training.soft_targets import Distillation
from nas.training.stopping import StopRequested
from nas.training.supernet_sampling import Sampler
from nas.training.trainer import Trainer


def _whole_batch(architecture: Architecture) -> int:
    del architecture
    return 1


@dataclass(frozen=True, kw_only=True)
class SupernetTraining:
    """A training of the supernet: equal values lead to equal weights, for any number of processes.

    Args:
        split: The training samples.
        sampler: The sampler that draws the K architectures of every step.
        recipe: Optimizer, learning rates and schedule; the schedule spans `step_count`.
        step_count: The total number of steps.
        seed: The seed of the sample order.
        checkpoint_path: Path of the checkpoint, which only rank 0 reads and writes.
        checkpoint_steps: The number of steps between two checkpoints.
        distillation: The weight of the distillation loss. The first architecture of a step teaches the others of that
            step on their own samples (in-place distillation; Yu and Huang, ICCV 2019). 0 disables it.
        micro_batches: Function that returns the number of micro-batches for an architecture; affects memory, and
            results only by rounding.
    """

    split: FeatureSplit
    sampler: Sampler
    recipe: RecipeConfig
    step_count: int
    seed: int
    checkpoint_path: Path
    checkpoint_steps: int
    distillation: float = 0.0
    micro_batches: Callable[[Architecture], int] = _whole_batch

    @cached_property
    def architectures(self) -> Callable[[int], list[Architecture]]:
        """Function that returns the architectures of a step, drawn once although several places ask for them."""
        return lru_cache(maxsize=2)(self.sampler.step)


def train_supernet(
    supernet: FusionModel,
    training: SupernetTraining,
    *,
    group: GradientGroup | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    elapsed_fraction: Callable[[], float] = lambda: 0.0,
) -> int:
    """Train a supernet in place, resuming from the checkpoint if it exists.

    An interruption does not change the steps that follow. Architecture j of step s is trained on batch s · K + j. The
    loss of a step is the weighted sum over all its samples, divided by their total weight.

    Args:
        supernet: The largest architecture of the space, with fresh weights; the weights of rank 0 are used everywhere.
        training: The settings, the same in every process.
        group: The processes that train together; a single process by default. Closed if an error is raised.
        should_stop: Called before every step; if it returns true in any process, all processes save and return.
        on_step: Callback on rank 0 that receives the number of a step, from 1, and its loss; see `StepLosses`.
        elapsed_fraction: Function that returns the elapsed fraction of the available time; only the value of rank 0
            is used. If time runs ahead of the steps, the schedule follows the time and training ends at 1: weights
            whose learning rate has not decayed rank architectures wrongly.

    Returns:
        The total number of finished steps, all saved; less than `step_count` if training was stopped.

    Raises:
        BudgetError: If no architecture fits.
        StudyError: If the checkpoint is damaged or has another `step_count` or K.
        TrainingError: If the loss is not finite.
        GroupBroken: If another process of the group failed or died.
    """
    group, step_count = group or SingleProcessGroup(), training.step_count
    trainer = _build_trainer(supernet, training)
    checkpoint = TrainingCheckpoint(training.checkpoint_path, trainer, training.sampler.count, training.seed)
    try:
        begin = partial(_start_classifiers, supernet, training, should_stop)
        step = first_step = _start(trainer, checkpoint, group, begin)
        numbers, batches = itertools.count(step + 1), _read(trainer, training, group, step)
        while not group.any(should_stop()):
            elapsed = min(max(elapsed_fraction(), 0.0), 1.0)
            position = group.broadcast_int(max(step, first_step + int(elapsed * (step_count - first_step))))
            if position >= step_count:
                break
            losses = _sum_gradients(trainer, training, group, step, batches)
            trainer.apply(position, losses, training.architectures(step))
            step += 1
            if group.rank == 0:
                if step % training.checkpoint_steps == 0:
                    checkpoint.save(step)
                _report(trainer, numbers, on_step)
        if group.rank == 0:
            checkpoint.save(step)
            _report(trainer, numbers, on_step)
        group.any(False)  # no process returns before the checkpoint is complete
    except BaseException:
        group.close()
        raise
    return step


def _build_trainer(supernet: FusionModel, training: SupernetTraining) -> Trainer:
    recipe = training.recipe
    loss = build_objective(recipe, training.split.labels, supernet.num_classes)
    return Trainer(model=supernet, recipe=recipe, step_count=training.step_count, loss=loss)


def _report(trainer: Trainer, numbers: Iterator[int], on_step: Callable[[int, float], None]) -> None:
    """Pass on the losses that are known by now, with the numbers of their steps."""
    for loss in trainer.losses.take():
        on_step(next(numbers), loss)


def _start(trainer: Trainer, checkpoint: TrainingCheckpoint, group: GradientGroup, begin: Callable[[], None]) -> int:
    """Give every process the weights and optimizer state of rank 0; return the number of finished steps.

    Of a family that trains nothing, all steps are finished.

    Args:
        trainer: The trainer of the supernet.
        checkpoint: The checkpoint, which rank 0 restores.
        group: The processes.
        begin: Function that rank 0 calls before the first step.
    """
    if not list(trainer.model.parameters()):
        return trainer.step_count
    step = checkpoint.restore() if group.rank == 0 else 0
    if group.rank == 0 and not step:
        begin()
    if group.size == 1:
        return step
    content = group.broadcast_bytes(checkpoint.to_bytes(step) if group.rank == 0 else b"")
    return checkpoint.load_bytes(content) if group.rank > 0 else step


def _start_classifiers(supernet: FusionModel, training: SupernetTraining, should_stop: Callable[[], bool]) -> None:
    """Set the classifiers as the recipe says; not if the training is to stop, since it then starts again."""
    if training.recipe.classifier_start == "random":
        return
    with contextlib.suppress(StopRequested):
        for architecture in _first_of_each_alternative(training):
            start_classifiers(
                supernet,
                training.split,
                training.recipe,
                architecture=architecture,
                batch_size=math.ceil(training.recipe.batch_size / training.micro_batches(architecture)),
                should_stop=should_stop,
            )


def _first_of_each_alternative(training: SupernetTraining) -> Iterator[Architecture]:
    """Yield the first architecture that is trained, and the first ones with each alternative, such as a readout.

    An alternative has classifiers of its own. The largest architecture may not fit; these do.
    """
    space = training.sampler.space
    names = [gene.name for gene in space.architecture_class.genes if gene.names]
    missing = {(name, value) for name in names for value in space.choices[name]}
    is_first = True
    for step in range(training.step_count):
        for architecture in training.sampler.step(step):
            added = missing & {(name, getattr(architecture, name)) for name in names}
            if is_first or added:
                yield architecture
            missing -= added
            is_first = False
        if not missing:
            return


def _sum_gradients(
    trainer: Trainer,
    training: SupernetTraining,
    group: GradientGroup,
    step: int,
    batches: Iterator[Batch],
) -> Tensor:
    """Set every parameter's gradient of a step's loss, identical in every process; return the K parts of the loss."""
    trainer.optimizer.zero_grad(set_to_none=True)
    own_buffers = _own_gradients(trainer, training, group, step, batches)
    if group.size > 1:
        own_buffers = iter(list(own_buffers))  # compute before waiting, so that all processes compute at the same time
    losses: list[Tensor] = []
    sums: dict[nn.Parameter, Tensor] = {}
    for index, architecture in enumerate(training.architectures(step)):
        used = trainer.model.used_parameters(architecture)
        sizes = [parameter.numel() for parameter in used]
        owner = index % group.size
        buffer = next(own_buffers) if owner == group.rank else used[0].new_empty(sum(sizes) + 1)
        group.broadcast(buffer, owner)
        *gradients, last = buffer.split([*sizes, 1])
        losses.append(last.clone())  # not a view, which would keep the buffer
        for parameter, gradient in zip(used, gradients, strict=True):
            if parameter in sums:
                sums[parameter] += gradient.view_as(parameter)
            else:
                sums[parameter] = gradient.view_as(parameter)
        del buffer, gradients, gradient, last  # freed before the next one is computed
    for parameter, gradient in sums.items():
        parameter.grad = gradient
    return torch.cat(losses)


def _own_gradients(
    trainer: Trainer,
    training: SupernetTraining,
    group: GradientGroup,
    step: int,
    batches: Iterator[Batch],
) -> Iterator[Tensor]:
    """Compute the gradients and the loss of each architecture of this process, one buffer per architecture."""
    total_weight = sum(trainer.loss.total_weight(batch.labels) for batch in _batches(training, step))
    for part in _parts(training, group, step):
        distillation = None
        if part.teacher is not None:
            inputs = itertools.islice(batches, part.micro_batches)
            distillation = Distillation(trainer.teacher_probabilities(inputs, part.teacher), training.distillation)
        inputs = itertools.islice(batches, part.micro_batches)
        loss = trainer.accumulate_gradients(inputs, total_weight, part.architecture, distillation)
        yield _pack_gradients(trainer.model.used_parameters(part.architecture), loss)


@dataclass(frozen=True)
class _Part:
    """One architecture of a step, computed by this process.

    Args:
        architecture: The architecture.
        teacher: The architecture that teaches it; None for the teacher itself, and without distillation.
        batch: The samples of both.
        micro_batches: The number of micro-batches of each.
    """

    architecture: Architecture
    teacher: Architecture | None
    batch: BatchSelection
    micro_batches: int


def _parts(training: SupernetTraining, group: GradientGroup, step: int) -> list[_Part]:
    """Return what this process computes in a step."""
    architectures, batches = training.architectures(step), _batches(training, step)
    parts = []
    for index in range(group.rank, len(architectures), group.size):
        architecture, batch = architectures[index], batches[index]
        # Every process computes the teacher itself, so that none waits for another.
        teacher = architectures[0] if index and training.distillation else None
        count = min(training.micro_batches(architecture), len(batch.indices))
        parts.append(_Part(architecture, teacher, batch, count))
    return parts


def _read(trainer: Trainer, training: SupernetTraining, group: GradientGroup, first_step: int) -> Iterator[Batch]:
    """Read the batches of this process in the order of the computation, from a step on."""
    reads = (
        read
        for step in range(first_step, training.step_count)
        for part in _parts(training, group, step)
        for architecture in (part.teacher, part.architecture)
        if architecture is not None
        for read in part.batch.reads(trainer.model.entry_layers(architecture), part.micro_batches)
    )
    return read_ahead(reads, trainer.device)


def _batches(training: SupernetTraining, step: int) -> list[BatchSelection]:
    """Return the batches of a step, one per architecture."""
    count = training.sampler.count
    seed = seed_from(training.seed, "supernet samples")
    schedule = BatchSchedule(len(training.split), training.recipe.batch_size, seed)
    return [schedule.select(training.split, number) for number in range(step * count, (step + 1) * count)]


def _pack_gradients(parameters: Sequence[nn.Parameter], loss: Tensor) -> Tensor:
    """Move the gradients and the loss into one buffer that can be sent at once."""
    # An encoder may have weights that no output depends on; their gradient is zero.
    gradients = [torch.zeros_like(entry) if entry.grad is None else entry.grad for entry in parameters]
    buffer = torch.cat([*(gradient.flatten() for gradient in gradients), loss.reshape(1)])
    for parameter in parameters:
        parameter.grad = None
    return buffer
