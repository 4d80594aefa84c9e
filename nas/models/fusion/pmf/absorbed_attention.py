"""A few rows attend to data rows whose keys and values are never computed.

Shapes: B samples, R rows that attend, S data rows and M prompt rows that are attended to, H heads, D width, d = D / H.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nas.models.encoders.frozen_ops import autocasted, multiply_per_head, product
from nas.models.encoders.layers import KeysValues, Projections
from nas.models.fusion.data_attention import accumulation_dtype
from nas.models.fusion.pmf.packing import PackedBatch

RowFunction = Callable[[Tensor], Tensor]
"""From rows (N, D) to rows (N, D), each by itself, with frozen weights."""

_CHUNK_ROWS = 256


# A few rows attend to the data


class _AbsorbedAttention(torch.autograd.Function):
    """See `absorbed_attention`; keeps queries, rows and weights, and neither the rows as read nor anything as long."""

    @staticmethod
    def forward(
        ctx: Any,
        shared: Tensor,
        own: Tensor,
        rows: Tensor,
        normalized: Tensor,
        bias: Tensor | None,
        parts: Projections,
        read: RowFunction,
        layout: PackedBatch,
    ) -> tuple[Tensor, Tensor]:
        size, (_, heads, few, _) = layout.batch_size, shared.shape
        shape = (size, heads, few + own.shape[2], layout.row_count)
        weights = normalized.new_empty(shape, dtype=accumulation_dtype(normalized.dtype))  # scores at first
        # Queries that all samples share meet all data rows in one product.
        scores = product(normalized.flatten(0, 1), _absorb(shared, parts)[0], None)
        weights[:, :, :few] = scores.view(size, -1, heads, few).permute(0, 2, 3, 1)
        if own.shape[2]:
            weights[:, :, few:] = (_absorb(own, parts) @ normalized.transpose(1, 2)).unflatten(1, (heads, -1))
        if bias is not None:
            weights += bias
        logsumexp = weights.logsumexp(dim=-1)
        weights = weights.sub_(logsumexp[..., None]).exp_().to(normalized.dtype)
        ctx.parts, ctx.read, ctx.layout = parts, read, layout
        ctx.save_for_backward(shared, own, rows, weights)
        means = (weights.flatten(1, 2) @ normalized).unflatten(1, (heads, -1))
        output = multiply_per_head(means, parts.value.weight.unflatten(0, (heads, -1)).transpose(1, 2))
        if parts.value.bias is not None:
            output = output + parts.value.bias.to(output.dtype).view(1, heads, 1, -1)
        if parts.key.bias is not None:
            queries = torch.cat([shared.expand(size, -1, -1, -1), own], dim=2)
            logsumexp = logsumexp + parts.scale * torch.linalg.vecdot(queries, parts.key.bias.view(1, heads, 1, -1))
        return output, logsumexp

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        shared, own, rows, weights = ctx.saved_tensors
        parts, layout, heads, few = ctx.parts, ctx.layout, shared.shape[1], shared.shape[2]
        data = layout.unpack(ctx.read(rows)).to(weights.dtype)
        to_means = multiply_per_head(
            gradients[0].to(weights.dtype), parts.value.weight.unflatten(0, (heads, -1))
        ).flatten(1, 2)
        change = (to_means @ data.transpose(1, 2)).unflatten(1, (heads, -1))  # (B, H, R, S)
        to_logsumexp = gradients[1].to(change.dtype)
        change.add_((to_logsumexp - torch.linalg.vecdot(change, weights))[..., None]).mul_(weights)
        over_shared = change[:, :, :few].permute(0, 3, 1, 2).reshape(-1, heads * few)  # (B · S, H · M)
        over_own = change[:, :, few:].flatten(1, 2)
        to_shared = to_own = to_rows = None
        if ctx.needs_input_grad[0]:
            sums = product(over_shared.t(), data.flatten(0, 1).t(), None).view(1, heads, few, -1)
            to_shared = _to_queries(sums, to_logsumexp[:, :, :few].sum(0, keepdim=True), parts)
        if ctx.needs_input_grad[1]:
            to_own = _to_queries((over_own @ data).unflatten(1, (heads, -1)), to_logsumexp[:, :, few:], parts)
        del data, change
        if ctx.needs_input_grad[2]:
            to_rows = product(over_shared, _absorb(shared, parts)[0].t(), None).unflatten(0, (layout.batch_size, -1))
            to_rows.baddbmm_(weights.flatten(1, 2).transpose(1, 2), to_means)
            if own.shape[2]:
                to_rows.baddbmm_(over_own.transpose(1, 2), _absorb(own, parts))
            del to_means, over_shared
            to_rows = _before(ctx.read, rows, layout.pack_gradient(to_rows).to(rows.dtype))
        return to_shared, to_own, to_rows, None, None, None, None, None


def _to_queries(sums: Tensor, to_logsumexp: Tensor, parts: Projections) -> Tensor:
    """Gradient of queries (B, H, R, d) from Σ over the data of score gradient times row, (B, H, R, D)."""
    heads = parts.num_heads
    gradient = multiply_per_head(sums, parts.key.weight.unflatten(0, (heads, -1)).transpose(1, 2))
    if parts.key.bias is not None:
        gradient = gradient + to_logsumexp[..., None] * parts.key.bias.view(1, heads, 1, -1)
    return gradient * parts.scale


def _absorb(queries: Tensor, parts: Projections) -> Tensor:
    """Scaled queries (B, H, R, d) times the key projection: what is multiplied with data rows, (B, H · R, D)."""
    key = parts.key.weight.unflatten(0, (parts.num_heads, -1))  # (H, d, D)
    return multiply_per_head(queries * parts.scale, key).flatten(1, 2)


def _before(read: RowFunction, rows: Tensor, gradient: Tensor) -> Tensor:
    """The gradient of rows (N, D) from that of `read(rows)`, which it overwrites some rows at a time."""
    for start in range(0, len(rows), _CHUNK_ROWS):
        part = rows[start : start + _CHUNK_ROWS].detach().requires_grad_()
        with torch.enable_grad():
            as_read = read(part)
        if as_read is part:
            return gradient
        chunk = gradient[start : start + _CHUNK_ROWS]
        chunk.copy_(torch.autograd.grad(as_read, part, chunk)[0])
    return gradient


class _ReadoutRows(torch.autograd.Function):
    """All rows, and some of them besides."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(places)
        return rows.view_as(rows), rows.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        # In place: the gradient of all rows has just been made by absorbed attention, and nobody else has it.
        return gradients[0].index_add_(0, places, gradients[1]), None


def readout_rows(rows: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (N, D) for `absorbed_attention` alone to read, and of them those at some places (B,), as (B, 1, D)."""
    everything, some = _ReadoutRows.apply(rows, places)  # type: ignore[no-untyped-call]
    return everything, some[:, None]


def absorbed_attention(
    shared: Tensor,
    own: Tensor,
    *,
    rows: Tensor,
    normalized: Tensor,
    bias: Tensor | None,
    parts: Projections,
    read: RowFunction,
    layout: PackedBatch,
) -> tuple[Tensor, Tensor]:
    """Attention of a few rows over data rows whose keys and values nobody computes.

    A score is q · (W_k x + b_k) = (q W_k) · x + q · b_k and an output is Σ p (W_v x + b_v) = W_v Σ p x + b_v, so both
    projections move from the S data rows to the R attending ones: exact, by associativity, and less work where R is
    less than d.

    Args:
        shared: Queries that are the same for all samples, (1, H, M, d).
        own: Queries of every sample behind them, (B, H, R − M, d); possibly none.
        rows: Data rows, packed, (N, D).
        normalized: `read(rows)`, unpacked, (B, S, D), without a graph.
        bias: Additive, over the data, broadcasting to (B, H, R, S), or None.
        parts: The frozen layer's projections.
        read: From `rows` to what the projections read, row by row; cheap, since the backward pass does it once more.
        layout: Where the data rows lie.

    Returns:
        Output (B, H, R, d) and logsumexp of the scores (B, H, R).
    """
    output: tuple[Tensor, Tensor] = _AbsorbedAttention.apply(  # type: ignore[no-untyped-call]
        autocasted(shared), autocasted(own), rows, autocasted(normalized), bias, parts, read, layout
    )
    return output


def join_prompts(output: Tensor, logsumexp: Tensor, queries: Tensor, prompts: KeysValues, scale: float) -> Tensor:
    """Put what a few rows attend to in the data together with what they attend to in the prompts.

    The data counts as one more key, whose score is the logsumexp and whose value is the output.

    Args:
        output: (B, H, R, d).
        logsumexp: (B, H, R).
        queries: (B or 1, H, R, d).
        prompts: Keys and values of the prompt rows, (B or 1, H, M, d).
        scale: Of the scores.
    """
    scores = queries @ prompts.keys.transpose(2, 3) * scale  # (B or 1, H, R, M)
    scores = torch.cat([logsumexp[..., None], scores.expand(len(output), -1, -1, -1)], dim=-1)
    weights = scores.softmax(dim=-1)
    return weights[..., :1] * output + weights[..., 1:] @ prompts.values
