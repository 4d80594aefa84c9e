"""The attentions of a fusing layer, each computing only what somebody reads.

Softmax over two sets of keys is put together exactly from softmax over each: with o and ℓ the output and the logarithm
of the sum of exponentials (logsumexp) of one set, and o', ℓ' those of the other,

    ℓ* = log(exp ℓ + exp ℓ')        o* = exp(ℓ − ℓ*) · o + exp(ℓ' − ℓ*) · o'

so what data rows attend to among themselves, which is large, and what they attend to in the prompts, which is trained,
need not be computed together: FlashAttention's rule (Dao et al., NeurIPS 2022, section 3.1), with two blocks.

Shapes: B samples, R rows that attend, S data rows and M prompt rows that are attended to, H heads, D width, d = D / H.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from nas.encoders import EncoderLayer, KeysValues
from nas.encoders.base import Projections, merge_heads
from nas.encoders.frozen import autocasted, product
from nas.fusion.layout import Layout

RowFunction = Callable[[Tensor], Tensor]
"""From rows (N, D) to rows (N, D), each by itself, with frozen weights."""

_CHUNK_ROWS = 256


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
    if _has_cpu_kernels(queries.device):
        output, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            queries, context.keys, context.values, 0.0, False, attn_mask=bias, scale=scale
        )
        return output, logsumexp
    scores = (queries @ context.keys.transpose(2, 3)).to(_exact(queries.dtype)) * scale
    scores = scores if bias is None else scores + bias
    return scores.softmax(dim=-1).to(queries.dtype) @ context.values, scores.logsumexp(dim=-1)


def _has_cpu_kernels(device: torch.device) -> bool:
    """Whether the attention kernels that give and take a logsumexp on CPUs serve this device."""
    return device.type == "cpu"


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
        layout: Layout,
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
        to_keys = _per_head(sums, query.weight.unflatten(0, (heads, -1)).transpose(1, 2))
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
    if _has_cpu_kernels(queries.device):
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
    layout: Layout,
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
        layout: Layout,
    ) -> tuple[Tensor, Tensor]:
        size, (_, heads, few, _) = layout.batch_size, shared.shape
        shape = (size, heads, few + own.shape[2], layout.row_count)
        weights = normalized.new_empty(shape, dtype=_exact(normalized.dtype))  # scores at first
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
        output = _per_head(means, parts.value.weight.unflatten(0, (heads, -1)).transpose(1, 2))
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
        to_means = _per_head(gradients[0].to(weights.dtype), parts.value.weight.unflatten(0, (heads, -1))).flatten(1, 2)
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
    heads = parts.head_count
    gradient = _per_head(sums, parts.key.weight.unflatten(0, (heads, -1)).transpose(1, 2))
    if parts.key.bias is not None:
        gradient = gradient + to_logsumexp[..., None] * parts.key.bias.view(1, heads, 1, -1)
    return gradient * parts.scale


def _exact(kind: torch.dtype) -> torch.dtype:
    """The type for sums of exponentials: float32 at least."""
    return torch.promote_types(kind, torch.float32)


def _absorb(queries: Tensor, parts: Projections) -> Tensor:
    """Scaled queries (B, H, R, d) times the key projection: what is multiplied with data rows, (B, H · R, D)."""
    key = parts.key.weight.unflatten(0, (parts.head_count, -1))  # (H, d, D)
    return _per_head(queries * parts.scale, key).flatten(1, 2)


def _per_head(rows: Tensor, weight: Tensor) -> Tensor:
    """(B, H, R, a) times (H, a, b) → (B, H, R, b), as one product a head."""
    size, heads, count, _ = rows.shape
    multiplied = rows.transpose(0, 1).reshape(heads, size * count, rows.shape[3]) @ weight.to(rows.dtype)
    return multiplied.view(heads, size, count, -1).transpose(0, 1)


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
    layout: Layout,
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
