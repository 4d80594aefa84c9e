"""Train a model for some steps, and evaluate it.

Everything here is a function of the recipe, the features, the weights it starts from and a seed: batch k of a training
is found from the seed alone, so that a training stopped at step k goes on as if it had never been stopped.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nas.common.errors import TrainingError
from nas.config import RecipeConfig
from nas.data.dataset import Labels
from nas.data.features.store import Batch, FeatureSplit
from nas.losses import Loss, loss_of, probabilities
from nas.models.fusion.base import Features, FusionModel
from nas.search.space import Architecture, Reads


class Stopped(Exception):
    """A training was asked to stop before its last step; what it had done is discarded by whoever asked."""


@dataclass(frozen=True)
class BatchSchedule:
    """Which samples make batch k: a fresh permutation an epoch, cut into batches; a last short batch is left out.

    Args:
        sample_count: Samples in the split.
        batch_size: Samples in a batch; at most `sample_count` are used.
        seed: Decides every permutation.
    """

    sample_count: int
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return max(self.sample_count // self.batch_size, 1)

    def indices(self, step: int) -> NDArray[np.int64]:
        """Samples of batch `step`, counted from 0 over all epochs."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng((self.seed, epoch)).permutation(self.sample_count)
        return order[position * self.batch_size : (position + 1) * self.batch_size]

    def samples(self, split: FeatureSplit, step: int) -> "Samples":
        """Batch `step` of a split, yet to be read; of every image one of its views, drawn anew in every epoch."""
        chosen = self.indices(step)
        if split.view_count == 1:
            return Samples(split, chosen, None)
        epoch = step // self.steps_per_epoch
        views = np.random.default_rng((self.seed, epoch, 1)).integers(split.view_count, size=self.sample_count)
        return Samples(split, chosen, views[chosen])


@dataclass(frozen=True)
class Samples:
    """Some samples of a split, yet to be read.

    Args:
        split: Where they are.
        indices: Which, (B,).
        views: Which view of each one's image, (B,); None for the images themselves.
    """

    split: FeatureSplit
    indices: NDArray[np.int64]
    views: NDArray[np.int64] | None

    @property
    def labels(self) -> Labels:
        """Of the samples, (B,) or (B, C)."""
        return self.split.labels[self.indices]

    def parts(self, reads: Reads, count: int = 1) -> Iterator[Batch]:
        """Read them as a model does, in `count` micro-batches of sizes that differ by at most one, largest first."""
        cuts = np.array_split(np.arange(len(self.indices)), min(count, len(self.indices)))
        for cut in cuts:
            yield self.split.batch(self.indices[cut], reads, None if self.views is None else self.views[cut])


def learning_rate_factor(step: int, step_count: int, recipe: RecipeConfig) -> float:
    """Share of the peak learning rate at a step (from 0): linear warm-up, then constant or half a cosine to zero."""
    warmup = math.ceil(recipe.warmup_share * step_count)
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
            logits = self.model(_features(batch), architecture)
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
        return [probabilities(self.model(_features(batch), teacher), batch.labels) for batch in batches]

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


def _features(batch: Batch) -> Features:
    return Features(
        image_tokens=batch.image_tokens,
        text_tokens=batch.text_tokens,
        text_mask=batch.text_mask,
        image_attention=batch.image_attention,
        text_attention=batch.text_attention,
    )


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
    loss = loss_of(recipe, split.labels, model.class_count)
    trainer = Trainer(model=model, recipe=recipe, step_count=step_count, loss=loss)
    schedule = BatchSchedule(len(split), recipe.batch_size, seed)
    for step in range(step_count):
        if should_stop():
            raise Stopped
        samples = schedule.samples(split, step)
        parts = samples.parts(model.reads(), micro_batches)
        on_step(step + 1, trainer.step(step, parts, loss.total_weight(samples.labels)))


def evaluation_batches(lengths: NDArray[np.int64], batch_size: int) -> Iterator[NDArray[np.int64]]:
    """All samples, texts of like length together, so that little padding is computed; padding changes no result."""
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def predict_logits(
    model: FusionModel,
    split: FeatureSplit,
    *,
    batch_size: int,
    architecture: Architecture | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Tensor:
    """Logits of every sample of a split, (N, C), in the split's order.

    Args:
        model: A model or a supernet.
        split: Samples.
        batch_size: Samples computed together; changes no result beyond rounding.
        architecture: The slice to evaluate; the model's own architecture by default.
        should_stop: Asked before every batch.

    Raises:
        Stopped: If `should_stop` said so.
        TrainingError: If they are not finite.
    """
    architectures = [architecture or model.architecture]
    return predict_population(model, split, architectures, batch_size=batch_size, should_stop=should_stop)[0]


@torch.inference_mode()
def predict_population(
    supernet: FusionModel,
    split: FeatureSplit,
    architectures: Sequence[Architecture],
    *,
    batch_size: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Tensor]:
    """Logits of many architectures, computed together: features are read, and read by PMF's first fusing layer, once.

    The logits of an architecture are the same to the last bit whichever others are beside it. One architecture is
    computed at a time on a batch, so memory grows by the logits alone.

    Args:
        supernet: Holds the weights of all.
        split: Samples.
        architectures: In any order.
        batch_size: Samples computed together; changes no result beyond rounding.
        should_stop: Asked before every batch.

    Returns:
        Of each architecture (N, C), in the split's order.

    Raises:
        Stopped: If `should_stop` said so.
        TrainingError: If logits are not finite: the highest of them would be a class all the same, and a score.
    """
    logits = [torch.empty(len(split), supernet.class_count) for _ in architectures]
    device = next(supernet.parameters()).device
    batches = list(evaluation_batches(split.text_lengths, batch_size))
    read_by: dict[Reads, list[int]] = {}
    for place, architecture in enumerate(architectures):
        read_by.setdefault(supernet.reads(architecture), []).append(place)
    for reads, chosen in read_by.items():
        for indices in batches:
            if should_stop():
                raise Stopped
            features = _features(split.batch(indices, reads).to(device))
            outcome = supernet.population_logits(features, [architectures[place] for place in chosen])
            for place, values in zip(chosen, outcome, strict=True):
                logits[place][torch.from_numpy(indices)] = values.cpu()
    for architecture, values in zip(architectures, logits, strict=True):
        if not values.isfinite().all():
            raise TrainingError(
                f"what {architecture} says is not finite after training; lower recipe.learning_rates or set "
                "recipe.clip_norm"
            )
    return logits


@torch.inference_mode()
def forward_seconds(
    model: FusionModel, split: FeatureSplit, architecture: Architecture, batch_size: int, repetitions: int = 15
) -> float:
    """Seconds of one forward pass from features that are in memory, the least of several.

    Args:
        model: A model or a supernet.
        split: Its first samples are taken.
        architecture: The slice.
        batch_size: How many samples.
        repetitions: How many passes, after two that are not counted.
    """
    device = next(model.parameters()).device
    features = _features(split.batch(np.arange(batch_size), model.reads(architecture)).to(device))
    least = math.inf
    for index in range(repetitions + 2):
        started = time.perf_counter()
        model(features, architecture)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if index >= 2:
            least = min(least, time.perf_counter() - started)
    return least
