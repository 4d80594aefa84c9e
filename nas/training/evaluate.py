"""Evaluate a model: logits of a split, and the time of a forward pass."""

import math
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.common.errors import TrainingError
from nas.data.features.store import FeatureSplit
from nas.models.fusion.base import FusionModel
from nas.search.space import Architecture, EntryLayers
from nas.training.batches import Stopped, features_of_batch


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
    logits = [torch.empty(len(split), supernet.num_classes) for _ in architectures]
    device = next(supernet.parameters()).device
    batches = list(evaluation_batches(split.text_lengths, batch_size))
    read_by: dict[EntryLayers, list[int]] = {}
    for place, architecture in enumerate(architectures):
        read_by.setdefault(supernet.entry_layers(architecture), []).append(place)
    for reads, chosen in read_by.items():
        for indices in batches:
            if should_stop():
                raise Stopped
            features = features_of_batch(split.batch(indices, reads).to(device))
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
    features = features_of_batch(split.batch(np.arange(batch_size), model.entry_layers(architecture)).to(device))
    least = math.inf
    for index in range(repetitions + 2):
        started = time.perf_counter()
        model(features, architecture)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if index >= 2:
            least = min(least, time.perf_counter() - started)
    return least
