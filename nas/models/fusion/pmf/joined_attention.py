"""All data rows attend to data and prompts: softmax over two sets of keys, put together exactly.

With o and ℓ the output and the logarithm of the sum of exponentials (logsumexp) of one set, and o', ℓ' those of the
other,

    ℓ* = log(exp ℓ + exp ℓ')        o* = exp(ℓ − ℓ*) · o + exp(ℓ' − ℓ*) · o'

so what data rows attend to among themselves, which is large, and what they attend to in the prompts, which is trained,
need not be computed together: FlashAttention's rule (Dao et al., NeurIPS 2022, section 3.1), with two blocks.

Shapes: B samples, R rows that attend, S data rows and M prompt rows that are attended to, H heads, D width, d = D / H.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from nas.models.encoders.frozen_ops import multiply_per_head
from nas.models.encoders.layers import KeysValues, Projections
from nas.models.fusion.data_attention import attention_with_logsumexp, has_cpu_kernels
from nas.models.fusion.pmf.absorbed_attention import RowFunction
from nas.models.fusion.pmf.packing import PackedBatch

# All data rows attend to data and prompts


class _JoinedAttention(torch.autograd.Function):
    """See `joined_attention`; on CPUs, where the kernels that give and take a logsumexp are always there."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        prompt_keys: Tensor,
        prompt_values: Tensor,
        bias: Tensor | None,
        scale: float,
    ) -> Tensor:
        output, logsumexp = attention_with_logsumexp(queries, KeysValues(keys, values), bias, scale)
        output, _, total = _with_prompts(output, logsumexp, queries, prompt_keys, prompt_values, scale)
        ctx.scale, ctx.bias = scale, bias
        ctx.save_for_backward(queries, keys, values, prompt_keys, prompt_values, output, total)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values, prompt_keys, prompt_values, output, total = ctx.saved_tensors
        gradient, scale = gradients[0].contiguous(), ctx.scale
        # The kernel recomputes softmax from the logsumexp; given that of all keys, its gradients are those of the
        # data's share in the whole.
        to_queries, to_data_keys, to_data_values = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            gradient, queries, keys, values, output, total, 0.0, False, attn_mask=ctx.bias, scale=scale
        )
        scores = (queries @ prompt_keys.transpose(2, 3)).to(total.dtype).mul_(scale)
        weights = scores.sub_(total[..., None]).exp_().to(gradient.dtype)  # (B, H, R, M)
        change = _score_gradient(gradient, output, weights, prompt_values, scale)
        to_keys, to_values = change.transpose(2, 3) @ queries, weights.transpose(2, 3) @ gradient
        return to_queries + change @ prompt_keys, to_data_keys, to_data_values, to_keys, to_values, None, None


class _KnownAttention(torch.autograd.Function):
    """Adds prompts to what constant rows are known to attend to in constant data: only prompts get gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        prompt_keys: Tensor,
        prompt_values: Tensor,
        queries: Tensor,
        known: tuple[Tensor, Tensor],
        rows: Tensor,
        parts: Projections,
        read: RowFunction,
        layout: PackedBatch,
    ) -> Tensor:
        output, weights, _ = _with_prompts(*known, queries, prompt_keys, prompt_values, parts.scale)
        ctx.parts, ctx.read, ctx.layout = parts, read, layout
        ctx.save_for_backward(prompt_values, output, weights, rows)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        prompt_values, output, weights, data_rows = ctx.saved_tensors
        query, gradient = ctx.parts.query, gradients[0].contiguous()  # one copy, where every product would make its own
        change = _score_gradient(gradient, output, weights, prompt_values, ctx.parts.scale)
        # Σ change · (W_q x + b_q) = W_q Σ change · x + b_q Σ change: queries need not be kept, nor computed again.
        data, heads = ctx.layout.unpack(ctx.read(data_rows)).to(change.dtype), change.shape[1]
        sums = (change.transpose(2, 3).flatten(1, 2) @ data).unflatten(1, (heads, -1))  # (B, H, M, D)
        to_keys = multiply_per_head(sums, query.weight.unflatten(0, (heads, -1)).transpose(1, 2))
        if query.bias is not None:
            to_keys = to_keys + change.sum(dim=2)[..., None] * query.bias.view(1, heads, 1, -1)
        return to_keys, weights.transpose(2, 3) @ gradient, None, None, None, None, None, None


def _with_prompts(
    output: Tensor, logsumexp: Tensor, queries: Tensor, prompt_keys: Tensor, prompt_values: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The whole output, the prompts' weights (B, H, R, M), and the logsumexp over all keys, (B, H, R)."""
    scores = (queries @ prompt_keys.transpose(2, 3)).to(logsumexp.dtype).mul_(scale)  # (B, H, R, M)
    total = torch.logaddexp(logsumexp, scores.logsumexp(dim=-1))
    weights = scores.sub_(total[..., None]).exp_().to(output.dtype)
    output = output * (logsumexp - total).exp_()[..., None].to(output.dtype)
    output += weights @ prompt_values
    return output, weights, total


def _score_gradient(gradient: Tensor, output: Tensor, weights: Tensor, prompt_values: Tensor, scale: float) -> Tensor:
    """Gradient of q · k for the prompts' keys, (B, H, R, M), from that of the whole output, (B, H, R, d)."""
    inner = torch.linalg.vecdot(gradient, output)[..., None]  # = Σ over all keys of weight times its gradient
    return (gradient @ prompt_values.transpose(2, 3)).sub_(inner).mul_(weights).mul_(scale)


def joined_attention(
    queries: Tensor, data: KeysValues, prompts: KeysValues, bias: Tensor | None, scale: float
) -> Tensor:
    """Attention of rows over data and prompts, without joining their keys and values in memory.

    Args:
        queries: (B, H, R, d).
        data: Keys and values of the data rows, (B, H, S, d).
        prompts: Keys and values of the prompt rows, which every row sees, (B, H, M, d), M ≥ 1.
        bias: Additive, over the data, broadcasting to (B, H, R, S), or None.
        scale: Of the scores.

    Returns:
        (B, H, R, d).
    """
    if has_cpu_kernels(queries.device):
        output: Tensor = _JoinedAttention.apply(  # type: ignore[no-untyped-call]
            queries, data.keys, data.values, prompts.keys, prompts.values, bias, scale
        )
        return output
    context = KeysValues.concatenate([data, prompts])
    if bias is not None:
        bias = pad(bias, (0, prompts.keys.shape[2]))  # zeros: prompts are seen by all
    return scaled_dot_product_attention(queries, context.keys, context.values, attn_mask=bias, scale=scale)


def known_attention(
    known: tuple[Tensor, Tensor],
    queries: Tensor,
    prompts: KeysValues,
    *,
    rows: Tensor,
    parts: Projections,
    read: RowFunction,
    layout: PackedBatch,
) -> Tensor:
    """Attention of constant rows over themselves and prompts.

    Args:
        known: Output (B, H, R, d) of the rows over themselves, and logsumexp of their scores, (B, H, R).
        queries: Of those rows, (B, H, R, d); not kept for the backward pass.
        prompts: Keys and values of the prompt rows, (B, H, M, d), M ≥ 1.
        rows: The rows, packed, (N, D).
        parts: The frozen layer's projections.
        read: From `rows` to what the projections read, row by row; cheap, since the backward pass does it once more.
        layout: Where the rows lie.

    Returns:
        (B, H, R, d).
    """
    output: Tensor = _KnownAttention.apply(  # type: ignore[no-untyped-call]
        prompts.keys, prompts.values, queries, known, rows, parts, read, layout
    )
    return output
