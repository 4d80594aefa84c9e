"""The pairs of each step of a pretraining, and what is drawn for them.

The seed and the number of a step alone determine its pairs, its masked tokens and the noise by which negatives are
drawn, so that a pretraining that is interrupted resumes without a difference.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nas.common.devices import is_accelerator
from nas.data.features.store import Batch, FeatureSplit
from nas.data.mask_vocabulary import MaskVocabulary
from nas.search.space import EntryLayers
from nas.training.batches import BatchSchedule, BatchSelection, read_ahead
from nas.training.objectives.contrastive import PairItems
from nas.training.objectives.masked_language import MaskedTexts, mask_texts
from nas.training.objectives.matching import gumbel_noise

_DRAWS = 2
"""Tells the draws of a step from those of the order of samples and of their views."""


@dataclass(frozen=True)
class PairBatch:
    """The pairs of one step, with all that is drawn for it.

    Args:
        batch: The inputs of the model.
        items: Which picture and which text each pair has.
        noise: The noise by which negatives are drawn, (2, B, B); see `gumbel_noise`.
        masked: The masked texts; None if nothing is masked.
    """

    batch: Batch
    items: PairItems
    noise: Tensor
    masked: MaskedTexts | None

    def to(self, device: torch.device) -> "PairBatch":
        """Return the pairs on a device; the host does not wait for copies from pinned memory.

        Args:
            device: The device.
        """
        return self._map(self.batch.to(device), lambda values: values.to(device, non_blocking=True))

    def pinned(self) -> "PairBatch":
        """Return the pairs in memory from which an accelerator copies by itself."""
        return self._map(self.batch.pinned(), lambda values: values.pin_memory())

    def _map(self, batch: Batch, function: Callable[[Tensor], Tensor]) -> "PairBatch":
        masked = self.masked
        if masked is not None:
            masked = MaskedTexts(function(masked.ids), function(masked.places), function(masked.targets))
        items = PairItems(function(self.items.images), function(self.items.texts))
        return PairBatch(batch, items, function(self.noise), masked)


class PairSchedule:
    """The pairs of all steps.

    Args:
        split: The samples.
        batch_size: The number of pairs of a step.
        seed: The seed of everything that is drawn.
        entry_layers: The layers at which the model starts to compute.
        vocabulary: The vocabulary whose tokens are masked; None where none are.
    """

    def __init__(
        self,
        split: FeatureSplit,
        *,
        batch_size: int,
        seed: int,
        entry_layers: EntryLayers,
        vocabulary: MaskVocabulary | None,
    ) -> None:
        self._split = split
        self._batches = BatchSchedule(len(split), batch_size, seed)
        self._seed = seed
        self._entry_layers = entry_layers
        self._vocabulary = vocabulary

    @property
    def epoch_steps(self) -> int:
        """The number of steps of an epoch."""
        return self._batches.steps_per_epoch

    def pairs(self, start: int, stop: int, device: torch.device) -> Iterator[PairBatch]:
        """Yield the pairs of the steps start, …, stop − 1, on the host.

        Args:
            start: The first step.
            stop: The step after the last one.
            device: The device of the model, for which pairs are read ahead.
        """
        steps = range(start, stop)
        reads = itertools.chain.from_iterable(
            self._batches.select(self._split, step).reads(self._entry_layers) for step in steps
        )
        for step, batch in zip(steps, read_ahead(reads, device), strict=True):
            pairs = self._pairs_of(step, batch, self._batches.select(self._split, step))
            yield pairs.pinned() if is_accelerator(device) else pairs

    def _pairs_of(self, step: int, batch: Batch, selection: BatchSelection) -> PairBatch:
        generator = np.random.default_rng((self._seed, step, _DRAWS))
        noise, indices, masked = gumbel_noise(generator, len(selection.indices)), selection.indices, None
        if self._vocabulary is not None:
            mask = None if batch.text_mask is None else batch.text_mask.numpy()
            masked = mask_texts(batch.text_tokens.numpy(), mask, self._vocabulary, generator)
        return PairBatch(
            batch,
            PairItems(
                torch.from_numpy(self._split.image_of_sample[indices]),
                torch.from_numpy(self._split.text_of_sample[indices]),
            ),
            noise,
            masked if masked is not None and len(masked.places) else None,
        )
