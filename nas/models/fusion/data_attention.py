"""Attention of data tokens over each other, a constant of the data set at the first fusing layer.

Shapes: B samples, R tokens, H heads, D hidden size, d = D / H.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nas.common.devices import has_cpu_kernels
from nas.models.encoders.layers import EncoderLayer, KeysValues, merge_heads


@dataclass(frozen=True)
class DataAttention:
    """Attention of data tokens over each other.

    Args:
        attended: The attention output, heads concatenated, (B, R, D).
        logsumexp: The logsumexp of the scores, (B, R, H), at least float32.
    """

    attended: Tensor
    logsumexp: Tensor

    def by_head(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output (B, H, R, d), in the dtype of the queries (B, H, R, d), and the logsumexp (B, H, R)."""
        output = self.attended.to(queries.dtype).unflatten(2, (queries.shape[1], -1)).transpose(1, 2)
        return output, self.logsumexp.transpose(1, 2)


@torch.no_grad()
def data_attention(layer: EncoderLayer, rows: Tensor, bias: Tensor | None) -> DataAttention:
    """Compute the attention of data tokens over each other in a frozen layer.

    Args:
        layer: The layer.
        rows: The input of the layer, (B, R, D).
        bias: The encoder's `data_bias`, broadcasting to (B, H, R, R), or None.
    """
    normalized = layer.normalize(rows)
    context = layer.keys_values_of(normalized)
    output, logsumexp = attention_with_logsumexp(layer.queries(normalized), context, bias, layer.projections.scale)
    return DataAttention(merge_heads(output), logsumexp.transpose(1, 2))


def attention_with_logsumexp(
    queries: Tensor, context: KeysValues, bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Return the attention of queries, (B, H, R, d), and the logsumexp of their scores, (B, H, R); without a graph."""
    if has_cpu_kernels(queries.device):  # they return and accept a logsumexp
        output, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            queries, context.keys, context.values, 0.0, False, attn_mask=bias, scale=scale
        )
        return output, logsumexp
    scores = (queries @ context.keys.transpose(2, 3)).to(accumulation_dtype(queries.dtype)) * scale
    scores = scores if bias is None else scores + bias
    return scores.softmax(dim=-1).to(queries.dtype) @ context.values, scores.logsumexp(dim=-1)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype for sums of exponentials: at least float32."""
    return torch.promote_types(dtype, torch.float32)
