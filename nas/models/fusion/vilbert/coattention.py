"""One stream's part of a co-attention layer (Lu et al., NeurIPS 2019, figure 2b); see `model` for what differs."""

from torch import Tensor, nn
from torch.nn.functional import gelu

from nas.models.encoders.base import Encoder
from nas.models.encoders.frozen_ops import autocasted
from nas.models.encoders.layers import KeysValues, attention, merge_heads, split_heads

_FEED_FORWARD_FACTOR = 4
_OUTPUT_STANDARD_DEVIATION = 0.002
"""A tenth of that of new weights in BERT: nearly nothing is added to a stream at first."""


class CoAttention(nn.Module):
    """The part of a co-attention layer that belongs to one stream: x + attention(x, other), then x + feed-forward(x).

    Args:
        encoder: The encoder of the stream.
        other_size: The hidden size of the other stream.
    """

    def __init__(self, encoder: Encoder, other_size: int) -> None:
        super().__init__()
        size = encoder.hidden_size
        self.num_heads = encoder.layers[0].projections.num_heads
        self.scale = (size // self.num_heads) ** -0.5
        self.norm, self.other_norm = nn.LayerNorm(size), nn.LayerNorm(other_size)
        self.query, self.output = nn.Linear(size, size), nn.Linear(size, size)
        self.key, self.value = nn.Linear(other_size, size), nn.Linear(other_size, size)
        self.feed_forward_norm = nn.LayerNorm(size)
        self.inner = nn.Linear(size, _FEED_FORWARD_FACTOR * size)
        self.outer = nn.Linear(_FEED_FORWARD_FACTOR * size, size)
        for layer in (self.output, self.outer):
            nn.init.normal_(layer.weight, std=_OUTPUT_STANDARD_DEVIATION)
            nn.init.zeros_(layer.bias)

    def forward(self, rows: Tensor, other: Tensor, bias: Tensor | None) -> Tensor:
        """Return the tokens of the stream, (B, R, D), after the layer.

        Args:
            rows: The tokens of the stream, (B, R, D).
            other: The tokens of the other stream, (B, S, D').
            bias: Additive bias over the tokens of the other stream, broadcasting to (B, H, R, S), or None.
        """
        seen = autocasted(self.other_norm(other))
        queries, keys, values = (
            split_heads(projected, self.num_heads)
            for projected in (self.query(self.norm(rows)), self.key(seen), self.value(seen))
        )
        attended = attention(queries, KeysValues(keys, values), bias, self.scale)
        rows = rows + self.output(merge_heads(attended))
        changed: Tensor = rows + self.outer(gelu(self.inner(self.feed_forward_norm(rows))))
        return changed
