"""Train the weight-sharing supernet: sampled architectures in every step.

Several processes share the architectures of a step. What a step does depends on the seed and its number alone, never on
how many processes there are: every architecture's gradients are computed apart and summed in one order by everybody, so
that all processes hold the same weights to the last bit, and the same as one process alone.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from nas.common.seeds import seed_from
from nas.config.schema import RecipeConfig
from nas.data.features.store import FeatureSplit
from nas.models.fusion.base import FusionModel
from nas.search.space import Architecture
from nas.training.batches import BatchSchedule, Samples
from nas.training.checkpoint import TrainingCheckpoints
from nas.training.distributed import Alone, GradientGroup
from nas.training.losses import loss_of
from nas.training.supernet_sampling import Sampler
from nas.training.trainer import Trainer


def train_supernet(
    *,
    supernet: FusionModel,
    split: FeatureSplit,
    sampler: Sampler,
    recipe: RecipeConfig,
    step_count: int,
    seed: int,
    checkpoint: Path,
    checkpoint_steps: int,
    should_stop: Callable[[], bool],
    on_step: Callable[[int, float], None],
    distillation: float = 0.0,
    micro_batches: Callable[[Architecture], int] = lambda architecture: 1,
    group: GradientGroup | None = None,
    time_share: Callable[[], float] = lambda: 0.0,
) -> int:
    """Train in place, going on from the checkpoint if there is one.

    The same steps follow whether or not it was interrupted, and with any number of processes: architecture j of step s
    is trained on a batch of its own, number s · K + j. A step's loss is the weighted sum over all its samples, divided
    by their total weight.

    Every process of a group calls this with the same arguments, apart from what is named below. Process r of W computes
    the architectures r, r + W, r + 2 W, ... of a step before it waits for the others, and keeps their gradients until
    they are sent: at most ⌈K / W⌉ + 2 times the supernet's size with a received one and the sum. A process alone adds
    each to the sum at once: at most 3 times. An error in one process breaks the group, so that no other waits for it.

    Args:
        supernet: Fresh weights of the space's largest architecture; those of rank 0 are everybody's.
        split: Training samples.
        sampler: Draws the K architectures of every step.
        recipe: Optimiser and schedule, which spans `step_count`.
        step_count: Steps in all.
        seed: Decides samples.
        checkpoint: File of weights, optimiser state and step, replaced as training goes on. Used by rank 0 alone.
        checkpoint_steps: How often.
        should_stop: Asked before every step; if any process says so, training ends early in all, saved.
        on_step: Told steps done and the last loss, on rank 0.
        distillation: Part of the loss of all but the first architecture of a step that compares with what the first
            one says of the same samples (in-place distillation; Yu and Huang, ICCV 2019).
        micro_batches: Parts that the batch of an architecture is cut into; changes memory, and no result beyond
            rounding.
        group: The processes that train together; by default this one alone. Closed by an error.
        time_share: Which part of the time for these steps has gone; rank 0 is asked. Where that is ahead of the steps,
            it decides how far the schedule is, and training ends when it comes to 1: weights whose learning rate has
            not come down rank architectures wrongly.

    Returns:
        Steps done in all, saved; fewer than `step_count` if it was stopped.

    Raises:
        BudgetError: If no architecture fits.
        StudyError: If the checkpoint is damaged, or of another `step_count` or K.
        TrainingError: If the loss is not finite.
        GroupBroken: If another process of the group failed or died.
    """
    group = group or Alone()
    minimised = loss_of(recipe, split.labels, supernet.num_classes)
    trainer = Trainer(model=supernet, recipe=recipe, step_count=step_count, loss=minimised)
    schedule = BatchSchedule(len(split), recipe.batch_size, seed_from(seed, "supernet samples"))
    checkpoints = TrainingCheckpoints(checkpoint, trainer, sampler.count)
    try:
        step = first = _start(checkpoints, group)
        while not group.agree(should_stop()):
            gone = min(max(time_share(), 0.0), 1.0)
            position = group.first(max(step, first + int(gone * (step_count - first))))
            if position >= step_count:
                break
            architectures = sampler.step(step)
            numbers = range(step * sampler.count, (step + 1) * sampler.count)
            batches = [schedule.samples(split, number) for number in numbers]
            loss = _sum_gradients(trainer, architectures, batches, micro_batches, group, distillation)
            trainer.apply(position, loss, architectures)
            step += 1
            if group.rank == 0:
                if step % checkpoint_steps == 0:
                    checkpoints.save(step)
                on_step(step, loss)
        if group.rank == 0:
            checkpoints.save(step)
        group.agree(False)  # nobody is done before all of it is saved
    except BaseException:
        group.close()
        raise
    return step


def _sum_gradients(
    trainer: Trainer,
    architectures: Sequence[Architecture],
    batches: Sequence[Samples],
    micro_batches: Callable[[Architecture], int],
    group: GradientGroup,
    distillation: float,
) -> float:
    """Give every parameter its gradient of a step's loss, the same to the last bit in every process; the loss."""
    total_weight = sum(trainer.loss.total_weight(samples.labels) for samples in batches)

    def computed() -> Iterator[Tensor]:
        """Gradients of this process's share, and the loss behind them."""
        for place in range(group.rank, len(architectures), group.size):
            architecture = architectures[place]
            count = micro_batches(architecture)
            if place and distillation:
                teacher = architectures[0]  # asked anew by every process that needs it, so that none waits for another
                lessons = trainer.lessons(batches[place].parts(trainer.model.entry_layers(teacher), count), teacher)
            else:
                lessons = None
            parts = batches[place].parts(trainer.model.entry_layers(architecture), count)
            loss = trainer.accumulate_gradients(parts, total_weight, architecture, lessons, distillation)
            yield _taken(trainer.model.used_parameters(architecture), loss)

    trainer.optimizer.zero_grad(set_to_none=True)
    share = computed()
    if group.size > 1:
        share = iter(list(share))  # before waiting for others, so that all compute at the same time
    loss = 0.0
    sums: dict[nn.Parameter, Tensor] = {}
    for place, architecture in enumerate(architectures):
        used = trainer.model.used_parameters(architecture)
        sizes = [parameter.numel() for parameter in used]
        owner = place % group.size
        buffer = next(share) if owner == group.rank else used[0].new_empty(sum(sizes) + 1)
        group.broadcast(buffer, owner)
        *gradients, last = buffer.split([*sizes, 1])
        loss += float(last)
        for parameter, gradient in zip(used, gradients, strict=True):
            if parameter in sums:
                sums[parameter] += gradient.view_as(parameter)
            else:
                sums[parameter] = gradient.view_as(parameter)
        del buffer, gradients, gradient, last  # before the next is computed
    for parameter, gradient in sums.items():
        parameter.grad = gradient
    return loss


def _taken(parameters: Sequence[nn.Parameter], loss: Tensor) -> Tensor:
    """Their gradients and the loss in one buffer, which is sent as a whole; they have none afterwards."""
    # Should an encoder have weights that nothing reads, their gradient is zero.
    gradients = [torch.zeros_like(entry) if entry.grad is None else entry.grad for entry in parameters]
    buffer = torch.cat([*(gradient.flatten() for gradient in gradients), loss.reshape(1)])
    for parameter in parameters:
        parameter.grad = None
    return buffer


def _start(checkpoints: "TrainingCheckpoints", group: GradientGroup) -> int:
    """Steps done; every process has the weights and optimiser state that rank 0 has, from its file or fresh."""
    step = checkpoints.restore() if group.rank == 0 else 0
    if group.size == 1:
        return step
    content = group.broadcast_bytes(checkpoints.content(step) if group.rank == 0 else b"")
    return checkpoints.take(content) if group.rank > 0 else step
