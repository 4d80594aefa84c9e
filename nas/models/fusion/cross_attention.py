"""Cross-attention: the tokens of one modality attend to those of another one (Vaswani et al., NeurIPS 2017, § 3.2.3).

Shapes: B samples, R tokens, S tokens of the other modality, H heads, D and D' hidden sizes.
"""

import torch
from torch import Tensor, nn

from nas.models.encoders.layers import EncoderLayer, KeysValues, PostNormLayer, attention, merge_heads, split_heads

WEIGHT_STANDARD_DEVIATION = 0.02


class CrossAttention(nn.Module):
    """Multi-head attention with queries of one modality, and keys and values of another one.

    Weights start from N(0, 0.02), as those of BERT, and biases from 0.

    Args:
        hidden_size: The hidden size D of the tokens; a multiple of the number of heads.
        context_size: The hidden size D' of the other modality.
        num_heads: The number of heads H.
    """

    def __init__(self, hidden_size: int, context_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = initialized(nn.Linear(hidden_size, hidden_size))
        self.key = initialized(nn.Linear(context_size, hidden_size))
        self.value = initialized(nn.Linear(context_size, hidden_size))
        self.output = initialized(nn.Linear(hidden_size, hidden_size))

    def forward(self, rows: Tensor, context: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return the change of the tokens, (B, R, D), which the caller adds to them.

        Args:
            rows: The tokens, (B, R, D).
            context: The tokens of the other modality, (B, S, D').
            bias: Additive bias that broadcasts to (B, H, R, S), or None where every token of it is attended to.
        """
        queries = split_heads(self.query(rows), self.num_heads)
        seen = KeysValues(
            split_heads(self.key(context), self.num_heads), split_heads(self.value(context), self.num_heads)
        )
        changed: Tensor = self.output(merge_heads(attention(queries, seen, bias, queries.shape[3] ** -0.5)))
        return changed


class CrossAttentionBlock(nn.Module):
    """Cross-attention with residual and LayerNorm, in the order of an encoder's own layers.

    That is norm(x + cross(x, z)) in a post-norm encoder such as BERT, and x + cross(norm(x), z) in a pre-norm one.

    Args:
        layer: A layer of the encoder of the tokens; heads, order and the ε of the LayerNorm are its own.
        context_size: The hidden size D' of the other modality.
    """

    def __init__(self, layer: EncoderLayer, context_size: int) -> None:
        super().__init__()
        hidden_size = layer.projections.query.in_features
        self.is_post_norm = isinstance(layer, PostNormLayer)
        self.attention = CrossAttention(hidden_size, context_size, layer.projections.num_heads)
        epsilon = next(part.eps for part in layer.module.modules() if isinstance(part, nn.LayerNorm))
        self.norm = nn.LayerNorm(hidden_size, eps=epsilon)

    def forward(self, rows: Tensor, context: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return the tokens after the block, (B, R, D); the arguments are those of `CrossAttention`."""
        if self.is_post_norm:
            changed: Tensor = self.norm(rows + self.attention(rows, context, bias))
            return changed
        added: Tensor = rows + self.attention(self.norm(rows), context, bias)
        return added


def initialized(layer: nn.Linear) -> nn.Linear:
    """Give a new linear layer the initial weights of BERT: N(0, 0.02), and biases of 0."""
    with torch.no_grad():
        layer.weight.normal_(std=WEIGHT_STANDARD_DEVIATION)
        layer.bias.zero_()
    return layer
