"""The samples of each training batch: drawn from a seed, read from a split in micro-batches."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from numpy.typing import NDArray

from nas.common.devices import is_accelerator
from nas.config.training_schema import steps_per_epoch
from nas.data.features.store import Batch, FeatureSplit
from nas.data.samples import Labels
from nas.models.fusion.base import Features
from nas.search.space import EntryLayers

BatchRead = Callable[[], Batch]
"""Function that reads a batch."""


@dataclass(frozen=True)
class BatchSchedule:
    """The order of samples: one permutation per epoch, cut into batches; the remainder of an epoch is dropped.

    Args:
        sample_count: Number of samples in the split.
        batch_size: Number of samples per batch; a smaller split is a single batch.
        seed: The seed of all permutations.
    """

    sample_count: int
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return steps_per_epoch(self.sample_count, self.batch_size)

    def indices(self, step: int) -> NDArray[np.int64]:
        """Return the sample indices of batch `step`, counted from 0 over all epochs."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = _order(self.sample_count, self.seed, epoch)
        return order[position * self.batch_size : (position + 1) * self.batch_size]

    def select(self, split: FeatureSplit, step: int) -> "BatchSelection":
        """Select batch `step` of a split; if images have several views, every epoch draws one per image."""
        indices = self.indices(step)
        if split.view_count == 1:
            return BatchSelection(split, indices, None)
        epoch = step // self.steps_per_epoch
        views = _views(self.sample_count, self.seed, epoch, split.view_count)
        return BatchSelection(split, indices, views[indices])


# Drawn once an epoch: drawing all samples for every batch would take time quadratic in their number.


@lru_cache(maxsize=2)
def _order(sample_count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order of all samples in an epoch, (N,), read-only."""
    order = np.random.default_rng((seed, epoch)).permutation(sample_count)
    order.flags.writeable = False
    return order


@lru_cache(maxsize=2)
def _views(sample_count: int, seed: int, epoch: int, view_count: int) -> NDArray[np.int64]:
    """Return the selected view of every sample in an epoch, (N,), read-only."""
    views = np.random.default_rng((seed, epoch, 1)).integers(view_count, size=sample_count)
    views.flags.writeable = False
    return views


@dataclass(frozen=True)
class BatchSelection:
    """The samples of one batch, selected but not read yet.

    Args:
        split: The split that holds the samples.
        indices: The indices of the samples in the split, (B,).
        views: The selected view of each sample's image, (B,); None if images have a single view.
    """

    split: FeatureSplit
    indices: NDArray[np.int64]
    views: NDArray[np.int64] | None

    @property
    def labels(self) -> Labels:
        """The labels of the samples, (B,), or (B, C) for multi-label data."""
        return self.split.labels[self.indices]

    def part(self, rank: int, size: int, micro_batches: int) -> tuple["BatchSelection", int]:
        """Return one of the parts into which processes divide the batch, and its number of micro-batches.

        The parts differ by at most one sample; a process has none where there are more processes than samples. No
        micro-batch is larger than those of the whole batch.

        Args:
            rank: The number of the part, from 0.
            size: The number of parts.
            micro_batches: The number of micro-batches of the whole batch.
        """
        if size == 1:
            return self, micro_batches
        positions = np.array_split(np.arange(len(self.indices)), size)[rank]
        views = None if self.views is None else self.views[positions]
        largest = -(-len(self.indices) // micro_batches)
        return BatchSelection(self.split, self.indices[positions], views), -(-len(positions) // largest)

    def reads(self, entry_layers: EntryLayers, micro_batches: int = 1) -> list[BatchRead]:
        """Return the reads of the samples, in micro-batches whose sizes differ by at most one, the largest first.

        Args:
            entry_layers: The layers at which the model starts to compute.
            micro_batches: The number of micro-batches; at most one per sample.
        """
        count = min(micro_batches, len(self.indices))
        if not count:
            return []
        return [
            partial(
                self.split.batch,
                self.indices[positions],
                entry_layers,
                None if self.views is None else self.views[positions],
            )
            for positions in np.array_split(np.arange(len(self.indices)), count)
        ]

    def read(self, entry_layers: EntryLayers, micro_batches: int = 1) -> Iterator[Batch]:
        """Read the samples; see `reads`."""
        return (read() for read in self.reads(entry_layers, micro_batches))


def read_ahead(reads: Iterable[BatchRead], device: torch.device) -> Iterator[Batch]:
    """Read batches for a device, on which they are used one after the other.

    On an accelerator a thread reads a batch into pinned memory while the device computes on the one before, so that
    the host has at most two batches. On the CPU a batch is read when it is needed.

    Args:
        reads: The reads, from which the next one is taken early on an accelerator.
        device: The device of the model.
    """
    if not is_accelerator(device):
        yield from (read() for read in reads)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="reading") as pool:
        pending: deque[Future[Batch]] = deque()
        for read in reads:
            pending.append(pool.submit(_read_pinned, read))
            if len(pending) > 1:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _read_pinned(read: BatchRead) -> Batch:
    return read().pinned()


def features_of_batch(batch: Batch) -> Features:
    """Return the model inputs of a batch."""
    return Features(
        image_tokens=batch.image_tokens,
        text_tokens=batch.text_tokens,
        text_mask=batch.text_mask,
        image_attention=batch.image_attention,
        text_attention=batch.text_attention,
        text_places=batch.text_places,
    )
