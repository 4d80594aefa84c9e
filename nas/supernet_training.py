"""Train the weight-sharing supernet: one sampled architecture a step (single-path one-shot, Guo et al., ECCV 2020)."""

import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nas.config import RecipeConfig
from nas.data import FeatureSplit
from nas.errors import BudgetError, StudyError
from nas.files import write_atomically
from nas.fusion import PMF
from nas.space import Architecture, SearchSpace
from nas.training import BatchSchedule, Trainer, class_weights, seed_from

_ATTEMPTS = 1000


def sample_feasible(
    space: SearchSpace, rng: random.Random, is_feasible: Callable[[Architecture], bool]
) -> Architecture:
    """A uniformly drawn architecture that fits.

    Raises:
        BudgetError: If none was found; the smallest is named.
    """
    for _ in range(_ATTEMPTS):
        architecture = space.sample(rng)
        if is_feasible(architecture):
            return architecture
    if is_feasible(space.smallest):
        return space.smallest
    raise BudgetError(f"no architecture of the space fits the memory budget, not even the smallest ({space.smallest})")


def train_supernet(
    *,
    supernet: PMF,
    split: FeatureSplit,
    space: SearchSpace,
    recipe: RecipeConfig,
    step_count: int,
    seed: int,
    is_feasible: Callable[[Architecture], bool],
    checkpoint: Path,
    checkpoint_steps: int,
    should_stop: Callable[[], bool],
    on_step: Callable[[int, float], None],
) -> int:
    """Train in place, going on from the checkpoint if there is one.

    The same steps follow whether or not it was interrupted: what step k does depends on the seed and k alone.

    Args:
        supernet: Fresh weights of the space's largest architecture.
        split: Training samples.
        space: Sampled uniformly.
        recipe: Optimiser and schedule, which spans `step_count`.
        step_count: Steps in all.
        seed: Decides samples and architectures.
        is_feasible: Only these are sampled.
        checkpoint: File of weights, optimiser state and step, replaced as training goes on.
        checkpoint_steps: How often.
        should_stop: Asked before every step; training then ends early, saved.
        on_step: Told steps done and the last loss.

    Returns:
        Steps done in all; fewer than `step_count` if it was stopped.

    Raises:
        BudgetError: If no architecture fits.
        StudyError: If the checkpoint is damaged.
        TrainingError: If the loss is not finite.
    """
    weights = class_weights(split.labels, supernet.image_classifier.out_features, recipe.class_weights)
    trainer = Trainer(model=supernet, recipe=recipe, step_count=step_count, weights=weights)
    start = _restore(checkpoint, trainer) if checkpoint.exists() else 0
    schedule = BatchSchedule(len(split), recipe.batch_size, seed_from(seed, "supernet samples"))
    for step in range(start, step_count):
        if should_stop():
            _save(checkpoint, trainer, step)
            return step
        rng = random.Random(seed_from(seed, "supernet architecture", step))
        architecture = sample_feasible(space, rng, is_feasible)
        samples = schedule.samples(split, step)
        weight = trainer.total_weight(samples.labels)
        loss = trainer.step(step, samples.parts(architecture.fusion_layer), weight, architecture)
        if (step + 1) % checkpoint_steps == 0:
            _save(checkpoint, trainer, step + 1)
        on_step(step + 1, loss)
    _save(checkpoint, trainer, step_count)
    return step_count


def _save(path: Path, trainer: Trainer, step: int) -> None:
    buffer = io.BytesIO()
    state = {"model": trainer.model.state_dict(), "optimizer": trainer.optimizer.state_dict(), "step": step}
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())


def _restore(path: Path, trainer: Trainer) -> int:
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
        trainer.model.load_state_dict(state["model"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        return int(state["step"])
    except (OSError, RuntimeError, KeyError, ValueError, EOFError) as error:
        raise StudyError(
            f"{path}: this checkpoint cannot be read ({error}); delete it to train the supernet anew"
        ) from error
