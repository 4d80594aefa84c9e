"""The threads with which a process computes features, as cores and memory allow."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nas.data.features.inputs import BATCH_SIZE
from nas.models.encoders.base import Encoder

_LIVE_ROWS = 12
"""The copies of the hidden states of a batch that live at the same time in a layer; measured: 7 to 11 at base size."""
_LIVE_PIXELS = 4
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class BuildLimits:
    """What a build may use on one machine.

    Args:
        cores: The number of cores.
        memory_bytes: The memory of all threads that compute; None if there is no limit.
        per_batch: The number of threads with which each batch is computed; None to share the cores evenly.
    """

    cores: int = 1
    memory_bytes: int | None = None
    per_batch: int | None = None

    def threads(self, one_bytes: int) -> "BuildThreads":
        """Return as many threads as the limits allow, at least one.

        Args:
            one_bytes: The memory that each thread needs.
        """
        most = self.cores // (self.per_batch or 1)
        count = max(most if self.memory_bytes is None else min(most, self.memory_bytes // one_bytes), 1)
        return BuildThreads(count, self.per_batch or max(self.cores // count, 1))


@dataclass(frozen=True)
class BuildThreads:
    """The threads with which a process computes.

    Args:
        count: The number of blocks that are computed at the same time.
        per_batch: The number of threads with which each batch is computed. It can affect the last bit of the features.
    """

    count: int = 1
    per_batch: int = 1


def batch_bytes(
    encoders: tuple[Encoder, Encoder],
    *,
    token_counts: tuple[int, int],
    stored_arrays: tuple[int, int],
    image_shape: Sequence[int],
    has_scores: bool,
) -> int:
    """Return the memory that a thread needs for a batch, at most.

    Args:
        encoders: Image and text encoder.
        token_counts: Number of tokens of an image, and of the longest text.
        stored_arrays: The number of arrays of hidden states that are stored of images and of texts.
        image_shape: Shape of the pixel values of an image.
        has_scores: Whether data attention is stored, for which all attention scores are computed.
    """
    needed = []
    for encoder, tokens, arrays in zip(encoders, token_counts, stored_arrays, strict=True):
        numbers = tokens * encoder.hidden_size * (_LIVE_ROWS + arrays)
        if has_scores:
            numbers += 2 * encoder.layers[0].projections.num_heads * tokens**2
        needed.append(numbers)
    needed[0] += _LIVE_PIXELS * math.prod(image_shape)
    return _FLOAT_BYTES * BATCH_SIZE * max(needed)
