"""Run a pretraining.

As all trainings here, it depends on its settings, the features, the initial weights and a seed only.
"""

import itertools
from collections.abc import Callable, Iterator

import torch

from nas.common.seeds import seed_from
from nas.data.features.store import FeatureSplit
from nas.models.fusion.base import FusionModel
from nas.search.space import EntryLayers
from nas.training.pretraining.checkpoint import PretrainingCheckpoint
from nas.training.pretraining.pairs import PairSchedule
from nas.training.pretraining.settings import PretrainingSettings
from nas.training.pretraining.step import Pretrainer
from nas.training.stopping import StopRequested


def pretrain(
    model: FusionModel,
    split: FeatureSplit,
    settings: PretrainingSettings,
    *,
    seed: int,
    checkpoint: PretrainingCheckpoint | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """Pretrain a model in place.

    Args:
        model: The model with its initial weights, of a family that can be pretrained.
        split: The training samples, whose labels are not read.
        settings: The settings.
        seed: The seed of the heads, of the sample order, of masked tokens and of negatives.
        checkpoint: The file of the pretraining, from which it resumes; None to keep none.
        should_stop: Called before every step; the pretraining stops when it returns true.
        on_step: Callback that receives the number of a step, from 1, and its loss; see `StepLosses`.

    Raises:
        StopRequested: If `should_stop` returned true.
        TrainingError: If the loss is not finite.
        OSError: If the checkpoint cannot be written.
    """
    if checkpoint is not None and checkpoint.load_finished(model):
        return
    config = settings.config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_from(seed, "pretraining heads"))
        pretrainer = Pretrainer(model, settings)
    start = 0 if checkpoint is None else checkpoint.restore(pretrainer)
    steps = _steps(pretrainer, split, settings, seed=seed, start=start)
    numbers, count = itertools.count(start + 1), settings.step_count
    for step in range(start, count):
        if should_stop():
            raise StopRequested
        next(steps)
        for loss in pretrainer.losses.take():
            on_step(next(numbers), loss)
        if checkpoint is not None and (step + 1) % config.checkpoint_steps == 0 and step + 1 < count:
            checkpoint.save(step + 1, pretrainer)
    pretrainer.losses.finish()
    for loss in pretrainer.losses.take():
        on_step(next(numbers), loss)
    if checkpoint is not None:
        checkpoint.finish(model)


def _steps(
    pretrainer: Pretrainer, split: FeatureSplit, settings: PretrainingSettings, *, seed: int, start: int
) -> Iterator[None]:
    """Train a step each time: those on texts alone first, then those on pairs.

    Args:
        pretrainer: The pretraining.
        split: The training samples.
        settings: The settings.
        seed: The seed of the pretraining.
        start: The number of finished steps.
    """
    layers, text_count = pretrainer.model.model.entry_layers(), settings.config.text_steps
    texts, pairs = (
        PairSchedule(
            split,
            batch_size=settings.recipe.batch_size,
            seed=seed_from(seed, purpose),
            entry_layers=reads,
            vocabulary=settings.vocabulary if "masked_language" in settings.objectives else None,
        )
        for purpose, reads in (("pretraining texts", EntryLayers(None, layers.text)), ("pretraining", layers))
    )
    first = min(start, text_count)
    for step, batch in enumerate(texts.pairs(first, text_count, pretrainer.device), start=first):
        pretrainer.text_step(step, batch)
        yield
    first = max(start - text_count, 0)
    if text_count and first == 0:
        pretrainer.start_pairs()
    for step, batch in enumerate(pairs.pairs(first, settings.config.steps, pretrainer.device), start=first):
        pretrainer.step(step, batch, settings.alpha(step, pairs.epoch_steps))
        yield
