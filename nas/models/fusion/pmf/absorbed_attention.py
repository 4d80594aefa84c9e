"""Attention of a few tokens over data tokens whose keys and values are never computed.

Shapes: B samples, R tokens that attend, S data tokens and M prompts that are attended to, N packed data tokens, H
heads, D hidden size, d = D / H.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nas.models.encoders.frozen_ops import autocasted, multiply_per_head, product, rows_per_chunk
from nas.models.encoders.layers import KeysValues, Projections
from nas.models.fusion.data_attention import accumulation_dtype
from nas.models.fusion.pmf.layer_input import DataReader, RowFunction

_CHUNK_ROWS = 256


class _AbsorbedAttention(torch.autograd.Function):
    """See `absorbed_attention`; keeps queries, data tokens and weights, but neither normalized tokens nor keys."""

    @staticmethod
    def forward(
        ctx: Any,
        shared: Tensor,
        own: Tensor,
        tokens: Tensor,
        normalized: Tensor,
        bias: Tensor | None,
        reader: DataReader,
    ) -> tuple[Tensor, Tensor]:
        parts, size = reader.projections, reader.layout.batch_size
        _, heads, few, _ = shared.shape
        shape = (size, heads, few + own.shape[2], reader.layout.token_count)
        weights = normalized.new_empty(shape, dtype=accumulation_dtype(normalized.dtype))  # first the scores
        # Queries that all samples share meet all data tokens in one product.
        scores = product(normalized.flatten(0, 1), _absorb(shared, parts)[0], None)
        weights[:, :, :few] = scores.view(size, -1, heads, few).permute(0, 2, 3, 1)
        if own.shape[2]:
            weights[:, :, few:] = (_absorb(own, parts) @ normalized.transpose(1, 2)).unflatten(1, (heads, -1))
        if bias is not None:
            weights += bias
        logsumexp = weights.logsumexp(dim=-1)
        weights = weights.sub_(logsumexp[..., None]).exp_().to(normalized.dtype)
        ctx.reader = reader
        ctx.save_for_backward(shared, own, tokens, weights)
        means = (weights.flatten(1, 2) @ normalized).unflatten(1, (heads, -1))
        output = multiply_per_head(means, parts.value.weight.unflatten(0, (heads, -1)).transpose(1, 2))
        if parts.value.bias is not None:
            output = output + parts.value.bias.to(output.dtype).view(1, heads, 1, -1)
        if parts.key.bias is not None:
            queries = torch.cat([shared.expand(size, -1, -1, -1), own], dim=2)
            logsumexp = logsumexp + parts.scale * torch.linalg.vecdot(queries, parts.key.bias.view(1, heads, 1, -1))
        return output, logsumexp

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        shared, own, tokens, weights = ctx.saved_tensors
        reader, heads, few = ctx.reader, shared.shape[1], shared.shape[2]
        parts, layout = reader.projections, reader.layout
        data = reader.unpacked(tokens).to(weights.dtype)
        to_means = multiply_per_head(
            gradients[0].to(weights.dtype), parts.value.weight.unflatten(0, (heads, -1))
        ).flatten(1, 2)
        change = (to_means @ data.transpose(1, 2)).unflatten(1, (heads, -1))  # (B, H, R, S)
        to_logsumexp = gradients[1].to(change.dtype)
        change.add_((to_logsumexp - torch.linalg.vecdot(change, weights))[..., None]).mul_(weights)
        over_shared = change[:, :, :few].permute(0, 3, 1, 2).reshape(-1, heads * few)  # (B · S, H · M)
        over_own = change[:, :, few:].flatten(1, 2)
        to_shared = to_own = to_tokens = None
        if ctx.needs_input_grad[0]:
            sums = product(over_shared.t(), data.flatten(0, 1).t(), None).view(1, heads, few, -1)
            to_shared = _to_queries(sums, to_logsumexp[:, :, :few].sum(0, keepdim=True), parts)
        if ctx.needs_input_grad[1]:
            to_own = _to_queries((over_own @ data).unflatten(1, (heads, -1)), to_logsumexp[:, :, few:], parts)
        del data, change
        if ctx.needs_input_grad[2]:
            to_tokens = product(over_shared, _absorb(shared, parts)[0].t(), None).unflatten(0, (layout.batch_size, -1))
            to_tokens.baddbmm_(weights.flatten(1, 2).transpose(1, 2), to_means)
            if own.shape[2]:
                to_tokens.baddbmm_(over_own.transpose(1, 2), _absorb(own, parts))
            del to_means, over_shared
            to_tokens = _through(reader.read, tokens, layout.pack_gradient(to_tokens).to(tokens.dtype))
        return to_shared, to_own, to_tokens, None, None, None


def _to_queries(sums: Tensor, to_logsumexp: Tensor, parts: Projections) -> Tensor:
    """Return the gradient of queries, (B, H, R, d), given Σ score gradient · token over the data, (B, H, R, D)."""
    heads = parts.num_heads
    gradient = multiply_per_head(sums, parts.key.weight.unflatten(0, (heads, -1)).transpose(1, 2))
    if parts.key.bias is not None:
        gradient = gradient + to_logsumexp[..., None] * parts.key.bias.view(1, heads, 1, -1)
    return gradient * parts.scale


def _absorb(queries: Tensor, parts: Projections) -> Tensor:
    """Return scaled queries (B, H, R, d) times the key projection, (B, H · R, D): the factor of the data tokens."""
    key = parts.key.weight.unflatten(0, (parts.num_heads, -1))  # (H, d, D)
    return multiply_per_head(queries * parts.scale, key).flatten(1, 2)


def _through(read: RowFunction, tokens: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient of tokens (N, D), given that of `read(tokens)`, which may be overwritten chunk by chunk."""
    count = rows_per_chunk(tokens, _CHUNK_ROWS)
    for start in range(0, len(tokens), count):
        part = tokens[start : start + count].detach().requires_grad_()
        with torch.enable_grad():
            as_read = read(part)
        if as_read is part:
            return gradient
        chunk = gradient[start : start + count]
        change = torch.autograd.grad(as_read, part, chunk)[0]
        if len(part) == len(tokens):
            return change
        chunk.copy_(change)
    return gradient


class _ReadoutTokens(torch.autograd.Function):
    """See `readout_tokens`."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(positions)
        return tokens.view_as(tokens), tokens.index_select(0, positions)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (positions,) = ctx.saved_tensors
        # In place: the only reader of all tokens has just made their gradient, and nothing else refers to it.
        return gradients[0].index_add_(0, positions, gradients[1]), None


def readout_tokens(tokens: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Return all tokens (N, D), for a single reader, and those at some positions (B,), as (B, 1, D)."""
    everything, some = _ReadoutTokens.apply(tokens, positions)  # type: ignore[no-untyped-call]
    return everything, some[:, None]


def absorbed_attention(
    shared: Tensor,
    own: Tensor,
    *,
    tokens: Tensor,
    normalized: Tensor,
    bias: Tensor | None,
    reader: DataReader,
) -> tuple[Tensor, Tensor]:
    """Return the attention of a few tokens over data tokens whose keys and values are not computed.

    A score is q · (W_k x + b_k) = (q W_k) · x + q · b_k and an output is Σ p (W_v x + b_v) = W_v Σ p x + b_v, so both
    projections move from the S data tokens to the R attending ones: exact, by associativity, and less work where R is
    smaller than d.

    Args:
        shared: Queries that are the same for all samples, (1, H, M, d).
        own: Further queries of every sample, (B, H, R − M, d); possibly none.
        tokens: Data tokens, packed, (N, D).
        normalized: `reader.unpacked(tokens)`, (B, S, D), without a graph.
        bias: Additive bias over the data, broadcasting to (B, H, R, S), or None.
        reader: The frozen layer's way to read the tokens; the backward pass reads them again.

    Returns:
        The output (B, H, R, d) and the logsumexp of the scores (B, H, R).
    """
    output: tuple[Tensor, Tensor] = _AbsorbedAttention.apply(  # type: ignore[no-untyped-call]
        autocasted(shared), autocasted(own), tokens, autocasted(normalized), bias, reader
    )
    return output


def join_prompts(output: Tensor, logsumexp: Tensor, queries: Tensor, prompts: KeysValues, scale: float) -> Tensor:
    """Extend the attention of a few tokens over the data to attention over data and prompts.

    Exact: softmax treats the data as one more key, whose score is the logsumexp and whose value is the output.

    Args:
        output: The attention output over the data, (B, H, R, d).
        logsumexp: The logsumexp of its scores, (B, H, R).
        queries: Queries of the tokens, (B or 1, H, R, d).
        prompts: Keys and values of the prompts, (B or 1, H, M, d).
        scale: The factor of the scores.

    Returns:
        (B, H, R, d).
    """
    scores = queries @ prompts.keys.transpose(2, 3) * scale  # (B or 1, H, R, M)
    scores = torch.cat([logsumexp[..., None], scores.expand(len(output), -1, -1, -1)], dim=-1)
    weights = scores.softmax(dim=-1)  # at least float32, as the logsumexp
    over_prompts = weights[..., 1:].to(prompts.values.dtype) @ prompts.values
    return (weights[..., :1] * output + over_prompts).to(output.dtype)
