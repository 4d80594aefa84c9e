"""Evaluate a model: logits of a split, and the time of a forward pass."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.common.devices import HostCopy, computing_in, is_accelerator, synchronize
from nas.common.errors import TrainingError
from nas.common.precision import Precision
from nas.data.features.store import FeatureSplit
from nas.models.fusion.base import FusionModel
from nas.models.fusion.embeddings import model_outputs
from nas.search.space import Architecture, EntryLayers
from nas.training.batches import features_of_batch, read_ahead
from nas.training.stopping import StopRequested

_WARMUP_PASSES = 2


def evaluation_batches(lengths: NDArray[np.int64], batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Yield the indices of all samples, texts of similar length together: less padding is computed, which is exact."""
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def predict_logits(
    model: FusionModel,
    split: FeatureSplit,
    *,
    batch_size: int,
    architecture: Architecture | None = None,
    precision: Precision = "float32",
    should_stop: Callable[[], bool] = lambda: False,
) -> Tensor:
    """Compute the logits of every sample of a split, (N, C), in the order of the split.

    Of a model without classes, these are the embeddings of its pairs, (N, 2E); see `pair_outputs`.

    Args:
        model: A model or a supernet.
        split: The samples.
        batch_size: The number of samples per batch; affects results only by rounding.
        architecture: The slice to evaluate; the architecture of the model by default.
        precision: The precision of products.
        should_stop: Called before every batch; evaluation stops when it returns true.

    Raises:
        StopRequested: If `should_stop` returned true.
        TrainingError: If logits are not finite.
    """
    architectures = [architecture or model.architecture]
    return predict_population(
        model, split, architectures, batch_size=batch_size, precision=precision, should_stop=should_stop
    )[0]


@torch.inference_mode()
def predict_population(
    supernet: FusionModel,
    split: FeatureSplit,
    architectures: Sequence[Architecture],
    *,
    batch_size: int,
    precision: Precision = "float32",
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Tensor]:
    """Compute the logits of many architectures, sharing the feature reads and, for PMF, part of the first fusing layer.

    The logits of an architecture do not depend on the other architectures, to the last bit. Architectures are computed
    one after another on each batch, so that only the memory of the logits grows with their number.

    Args:
        supernet: The model that holds the weights of all architectures.
        split: The samples.
        architectures: The architectures, in any order.
        batch_size: The number of samples per batch; affects results only by rounding.
        precision: The precision of products; logits are float32 in any case.
        should_stop: Called before every batch; evaluation stops when it returns true.

    Returns:
        The logits of each architecture, (N, C), in the order of the split; see `predict_logits`.

    Raises:
        StopRequested: If `should_stop` returned true.
        TrainingError: If logits are not finite, since their maximum would still name a class and give a score.
    """
    logits = [torch.empty(0) for _ in architectures]  # allocated with the first batch, which shows their width
    device = supernet.device
    batches = list(evaluation_batches(split.text_lengths, batch_size))
    groups: dict[EntryLayers, list[int]] = {}
    for position, architecture in enumerate(architectures):
        groups.setdefault(supernet.entry_layers(architecture), []).append(position)
    reads = (partial(split.batch, indices, entry_layers) for entry_layers in groups for indices in batches)
    read = read_ahead(reads, device)
    computed: deque[tuple[NDArray[np.int64], list[int], list[HostCopy]]] = deque()
    for positions in groups.values():
        for indices in batches:
            if should_stop():
                raise StopRequested
            features = features_of_batch(next(read).to(device))
            with computing_in(precision, device):
                outputs = model_outputs(supernet, features, [architectures[position] for position in positions])
            computed.append((indices, positions, [HostCopy(values) for values in outputs]))
            if len(computed) > is_accelerator(device):  # on an accelerator those of the batch before
                _store(logits, len(split), *computed.popleft())
    for values in computed:
        _store(logits, len(split), *values)
    for architecture, found in zip(architectures, logits, strict=True):
        if not found.isfinite().all():
            raise TrainingError(
                f"{architecture}: the logits are not finite after training; lower recipe.learning_rates or set "
                "recipe.clip_norm"
            )
    return logits


def _store(
    logits: list[Tensor],
    count: int,
    indices: NDArray[np.int64],
    positions: Sequence[int],
    outputs: Sequence[HostCopy],
) -> None:
    """Put the logits of a batch at their places.

    Args:
        logits: The logits of each architecture, (N, C); empty before the first batch.
        count: The number of samples N.
        indices: The samples of the batch, (B,).
        positions: The positions of the architectures that were computed.
        outputs: Their logits, (B, C).
    """
    for position, values in zip(positions, outputs, strict=True):
        found = values.wait()
        if not len(logits[position]):
            logits[position] = torch.empty(count, found.shape[1])
        logits[position][torch.from_numpy(indices)] = found


@torch.inference_mode()
def forward_seconds(
    model: FusionModel,
    split: FeatureSplit,
    architecture: Architecture,
    batch_size: int,
    *,
    precision: Precision = "float32",
    repetitions: int = 15,
) -> float:
    """Return the shortest time in seconds of a forward pass on features in memory.

    Args:
        model: A model or a supernet.
        split: The samples; the first `batch_size` are used.
        architecture: The slice.
        batch_size: The number of samples.
        precision: The precision of products.
        repetitions: The number of measured passes.
    """
    device = model.device
    features = features_of_batch(split.batch(np.arange(batch_size), model.entry_layers(architecture)).to(device))
    shortest = math.inf
    for index in range(repetitions + _WARMUP_PASSES):
        started = time.perf_counter()
        with computing_in(precision, device):
            model_outputs(model, features, [architecture])
        synchronize(device)
        if index >= _WARMUP_PASSES:
            shortest = min(shortest, time.perf_counter() - started)
    return shortest
