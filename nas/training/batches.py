"""Which samples make a batch, and how they are read."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.data.features.store import Batch, FeatureSplit
from nas.data.samples import Labels
from nas.models.fusion.base import Features
from nas.search.space import EntryLayers


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

    def parts(self, reads: EntryLayers, count: int = 1) -> Iterator[Batch]:
        """Read them as a model does, in `count` micro-batches of sizes that differ by at most one, largest first."""
        cuts = np.array_split(np.arange(len(self.indices)), min(count, len(self.indices)))
        for cut in cuts:
            yield self.split.batch(self.indices[cut], reads, None if self.views is None else self.views[cut])


class Stopped(Exception):
    """A training was asked to stop before its last step; what it had done is discarded by whoever asked."""


def features_of_batch(batch: Batch) -> Features:
    return Features(
        image_tokens=batch.image_tokens,
        text_tokens=batch.text_tokens,
        text_mask=batch.text_mask,
        image_attention=batch.image_attention,
        text_attention=batch.text_attention,
    )
