"""How a frozen layer reads the data tokens of a batch.

Shapes: B samples, S tokens of the longest sample, N packed tokens, D hidden size.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from nas.models.encoders.layers import EncoderLayer, Projections
from nas.models.fusion.pmf.packing import PackedBatch

RowFunction = Callable[[Tensor], Tensor]
"""A function of rows (N, D), with frozen weights, that treats every row separately and keeps the shape."""


@dataclass(frozen=True)
class LayerInput:
    """How a layer reads tokens that the layer before it has accumulated but not emitted; row by row.

    Emitting on reading is exact, because `emit` treats rows separately, and saves the emitted tokens: the accumulated
    ones are kept for the backward pass anyway.

    Args:
        before: The layer before, or None where the tokens have been emitted.
        layer: The layer that reads.
    """

    before: EncoderLayer | None
    layer: EncoderLayer

    def emit(self, tokens: Tensor) -> Tensor:
        """Return the layer's input, (…, D) → (…, D)."""
        return tokens if self.before is None else self.before.emit(tokens)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return the input of the layer's projections, (…, D) → (…, D)."""
        return self.layer.normalize(self.emit(tokens))


@dataclass(frozen=True)
class DataReader:
    """A frozen layer's projections, and how they read packed data tokens.

    Args:
        projections: The projections of the layer.
        read: The function from packed tokens to the input of the projections; cheap, because backward passes repeat it.
        layout: The positions of the packed tokens in the batch.
    """

    projections: Projections
    read: RowFunction
    layout: PackedBatch

    def unpacked(self, tokens: Tensor) -> Tensor:
        """Return the input of the projections for packed tokens (N, D), unpacked, (B, S, D)."""
        return self.layout.unpack(self.read(tokens))
