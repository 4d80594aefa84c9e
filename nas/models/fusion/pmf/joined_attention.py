"""Attention of all data tokens over data and prompts: softmax over two sets of keys, combined exactly.

With o and ℓ the output and the logarithm of the sum of exponentials (logsumexp) of one set, and o', ℓ' those of the
other,

    ℓ* = log(exp ℓ + exp ℓ')        o* = exp(ℓ − ℓ*) · o + exp(ℓ' − ℓ*) · o'

so the attention of data tokens over each other, which is large, and over the prompts, which are trained, can be
computed separately: FlashAttention's rule (Dao et al., NeurIPS 2022, section 3.1), with two blocks.

Shapes: B samples, R tokens that attend, S data tokens and M prompts that are attended to, N packed data tokens, H
heads, D hidden size, d = D / H.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad, scaled_dot_product_attention

from nas.common.devices import has_cpu_kernels
from nas.models.encoders.frozen_ops import multiply_per_head
from nas.models.encoders.layers import KeysValues
from nas.models.fusion.data_attention import attention_with_logsumexp
from nas.models.fusion.pmf.layer_input import DataReader


class _JoinedAttention(torch.autograd.Function):
    """See `joined_attention`; for CPUs, whose kernels return and accept a logsumexp."""

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
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values, prompt_keys, prompt_values, output, total = ctx.saved_tensors
        gradient, scale = gradients[0].contiguous(), ctx.scale
        # The kernel recomputes the softmax from the logsumexp. Given that of all keys, prompts included, it returns the
        # gradients of the data's share.
        to_queries, to_data_keys, to_data_values = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            gradient, queries, keys, values, output, total, 0.0, False, attn_mask=ctx.bias, scale=scale
        )
        scores = (queries @ prompt_keys.transpose(2, 3)).to(total.dtype).mul_(scale)
        weights = scores.sub_(total[..., None]).exp_().to(gradient.dtype)  # (B, H, R, M)
        change = _score_gradient(gradient, output, weights, prompt_values, scale)
        to_keys, to_values = change.transpose(2, 3) @ queries, weights.transpose(2, 3) @ gradient
        return to_queries + change @ prompt_keys, to_data_keys, to_data_values, to_keys, to_values, None, None


class _KnownAttention(torch.autograd.Function):
    """See `known_attention`; only prompts get gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        prompt_keys: Tensor,
        prompt_values: Tensor,
        queries: Tensor,
        known: tuple[Tensor, Tensor],
        tokens: Tensor,
        reader: DataReader,
    ) -> Tensor:
        scale = reader.projections.scale
        output, weights, _ = _with_prompts(*known, queries, prompt_keys, prompt_values, scale)
        ctx.reader = reader
        ctx.save_for_backward(prompt_values, output, weights, tokens)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        prompt_values, output, weights, tokens = ctx.saved_tensors
        parts, gradient = ctx.reader.projections, gradients[0].contiguous()  # one copy, or every product would make one
        query, heads = parts.query, parts.num_heads
        change = _score_gradient(gradient, output, weights, prompt_values, parts.scale)
        # Σ change · (W_q x + b_q) = W_q Σ change · x + b_q Σ change: queries are neither kept nor computed again.
        data = ctx.reader.unpacked(tokens).to(change.dtype)
        sums = (change.transpose(2, 3).flatten(1, 2) @ data).unflatten(1, (heads, -1))  # (B, H, M, D)
        to_keys = multiply_per_head(sums, query.weight.unflatten(0, (heads, -1)).transpose(1, 2))
        if query.bias is not None:
            to_keys = to_keys + change.sum(dim=2)[..., None] * query.bias.view(1, heads, 1, -1)
        return to_keys, weights.transpose(2, 3) @ gradient, None, None, None, None


def _with_prompts(
    output: Tensor, logsumexp: Tensor, queries: Tensor, prompt_keys: Tensor, prompt_values: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the output over all keys, the weights of the prompts (B, H, R, M), and the logsumexp over all keys."""
    scores = (queries @ prompt_keys.transpose(2, 3)).to(logsumexp.dtype).mul_(scale)  # (B, H, R, M)
    total = torch.logaddexp(logsumexp, scores.logsumexp(dim=-1))
    weights = scores.sub_(total[..., None]).exp_().to(output.dtype)
    output = output * (logsumexp - total).exp_()[..., None].to(output.dtype)
    output += weights @ prompt_values
    return output, weights, total


def _score_gradient(gradient: Tensor, output: Tensor, weights: Tensor, prompt_values: Tensor, scale: float) -> Tensor:
    """Return the gradient of the prompts' scores q · k, (B, H, R, M), given that of the output, (B, H, R, d)."""
    inner = torch.linalg.vecdot(gradient, output)[..., None]  # = Σ over all keys of weight times its gradient
    return (gradient @ prompt_values.transpose(2, 3)).sub_(inner).mul_(weights).mul_(scale)


def joined_attention(
    queries: Tensor, data: KeysValues, prompts: KeysValues, bias: Tensor | None, scale: float
) -> Tensor:
    """Return the attention of tokens over data and prompts, without concatenating their keys and values in memory.

    Args:
        queries: Queries of the tokens, (B, H, R, d).
        data: Keys and values of the data tokens, (B, H, S, d).
        prompts: Keys and values of the prompts, which all tokens attend to, (B, H, M, d), M ≥ 1.
        bias: Additive bias over the data, broadcasting to (B, H, R, S), or None.
        scale: The factor of the scores.

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
        bias = pad(bias, (0, prompts.keys.shape[2]))  # zeros: all tokens attend to prompts
    return scaled_dot_product_attention(queries, context.keys, context.values, attn_mask=bias, scale=scale)


def known_attention(
    known: tuple[Tensor, Tensor],
    queries: Tensor,
    prompts: KeysValues,
    *,
    tokens: Tensor,
    reader: DataReader,
) -> Tensor:
    """Return the attention of constant data tokens over each other and prompts, given that over each other.

    Args:
        known: The attention output of the tokens over each other, (B, H, R, d), and the logsumexp of its scores,
            (B, H, R).
        queries: Queries of the tokens, (B, H, R, d); not kept for the backward pass.
        prompts: Keys and values of the prompts, (B, H, M, d), M ≥ 1.
        tokens: The tokens, packed, (N, D).
        reader: The frozen layer's way to read the tokens; the backward pass reads them again.

    Returns:
        (B, H, R, d).
    """
    output: Tensor = _KnownAttention.apply(  # type: ignore[no-untyped-call]
        prompts.keys, prompts.values, queries, known, tokens, reader
    )
    return output
