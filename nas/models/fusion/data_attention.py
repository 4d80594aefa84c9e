"""What data rows attend to among themselves, which depends on no trained parameter at the first fusing layer."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nas.models.encoders.layers import EncoderLayer, KeysValues, merge_heads


@dataclass(frozen=True)
class DataAttention:
    """What data rows attend to among themselves; at the first fusing layer it depends on no trained parameter.

    Args:
        attended: Heads side by side, (B, R, D).
        logsumexp: Of the scores, (B, R, H), float32 at least.
    """

    attended: Tensor
    logsumexp: Tensor

    def by_head(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Output (B, H, R, d) in the type of the queries (B, H, R, d), and logsumexp (B, H, R)."""
        output = self.attended.to(queries.dtype).unflatten(2, (queries.shape[1], -1)).transpose(1, 2)
        return output, self.logsumexp.transpose(1, 2)


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
    if has_cpu_kernels(queries.device):
        output, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            queries, context.keys, context.values, 0.0, False, attn_mask=bias, scale=scale
        )
        return output, logsumexp
    scores = (queries @ context.keys.transpose(2, 3)).to(accumulation_dtype(queries.dtype)) * scale
    scores = scores if bias is None else scores + bias
    return scores.softmax(dim=-1).to(queries.dtype) @ context.values, scores.logsumexp(dim=-1)


def has_cpu_kernels(device: torch.device) -> bool:
    """Whether the attention kernels that give and take a logsumexp on CPUs serve this device."""
    return device.type == "cpu"


def accumulation_dtype(kind: torch.dtype) -> torch.dtype:
    """The type for sums of exponentials: float32 at least."""
    return torch.promote_types(kind, torch.float32)
