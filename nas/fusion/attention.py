"""The three attentions of a fusing layer, each computing only what somebody reads.

Softmax over two sets of keys is put together exactly from softmax over each: with o and ℓ the output and the logarithm
of the sum of exponentials (logsumexp) of one set, and o', ℓ' those of the other,

    ℓ* = log(exp ℓ + exp ℓ')        o* = exp(ℓ − ℓ*) · o + exp(ℓ' − ℓ*) · o'

so the data rows' attention over each other, which is large, and their attention over the prompts, which is trained,
need not be computed together.

Shapes: B samples, R rows that attend, S data rows and M prompt rows that are attended to, H heads, D width, d = D / H.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nas.encoders import EncoderLayer, KeysValues
from nas.encoders.base import merge_heads


@dataclass(frozen=True)
class DataAttention:
    """What data rows attend to among themselves; at the first fusing layer it depends on no trained parameter.

    Args:
        attended: Heads side by side, (B, R, D).
        logsumexp: Of the scores, (B, R, H), float32 at least.
    """

    attended: Tensor
    logsumexp: Tensor


@torch.no_grad()
def data_attention(layer: EncoderLayer, rows: Tensor, bias: Tensor | None) -> DataAttention:
    """The data rows' attention over each other in a frozen layer.

    Args:
        layer: The layer.
        rows: What it reads, (B, R, D).
        bias: The encoder's `data_bias`, broadcasting to (B, H, R, R), or None.
    """
    normalized = layer.normalize(rows)
    context = layer.keys_values_of(normalized)
    output, logsumexp = attention_with_logsumexp(layer.queries(normalized), context, bias, layer.projections.scale)
    return DataAttention(merge_heads(output), logsumexp.transpose(1, 2))


def attention_with_logsumexp(
    queries: Tensor, context: KeysValues, bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention of queries (B, H, R, d), and the logsumexp of their scores, (B, H, R); without a graph."""
    if queries.device.type == "cpu":
        output, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            queries, context.keys, context.values, 0.0, False, attn_mask=bias, scale=scale
        )
        return output, logsumexp
    scores = queries @ context.keys.transpose(2, 3) * scale
    scores = scores if bias is None else scores + bias
    return scores.softmax(dim=-1) @ context.values, scores.logsumexp(dim=-1)
