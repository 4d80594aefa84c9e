"""Layers with something between their halves, or in place of the second one: cross-attention, experts.

Shapes: B samples, R tokens, Q tokens whose outputs are needed, H heads, D hidden size.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nas.common.errors import EncoderError
from nas.models.encoders.base import Encoder
from nas.models.encoders.layers import Halves, attention, merge_heads

Rest = Callable[[Any, Tensor], Tensor]
"""Function from a layer of transformers and the sum after its attention, (B, R, D), to the output of the layer."""


def halves_of(encoder: Encoder, index: int) -> Halves:
    """Return the halves of a layer.

    Raises:
        EncoderError: If its family does not define them.
    """
    halves = encoder.layers[index].halves
    if halves is None:
        raise EncoderError(
            f"{encoder.config.model_type} encoder: its layers cannot be split after their attention; expected the "
            "argument halves= where the encoder builds them"
        )
    return halves


def feed_forward_copy(encoder: Encoder, index: int) -> nn.Module:
    """Return copies of the parts of a layer that its second half calls, by their names: another expert of the layer.

    Args:
        encoder: The encoder.
        index: The layer.
    """
    layer = encoder.layers[index].module
    expert = nn.Module()
    for name in halves_of(encoder, index).feed_forward_parts:
        expert.add_module(name, copy.deepcopy(layer.get_submodule(name)))
    return expert


def run_split(
    encoder: Encoder,
    index: int,
    rows: Tensor,
    bias: Tensor | None,
    rest: Rest,
    *,
    whole: bool,
    wanted: tuple[Tensor, Tensor | None] | None = None,
) -> Tensor:
    """Run the attention of a layer on all tokens, and something else than its own second half after it.

    Args:
        encoder: The encoder.
        index: The layer.
        rows: The input of the layer, (B, R, D).
        bias: Additive bias over the tokens, broadcasting to (B, H, R, R), or None.
        rest: What follows the attention.
        whole: Whether to call the parts of the layer of transformers (`Features.whole_layers`).
        wanted: The tokens whose outputs are needed, (B, Q, D), and their bias, broadcasting to (B, H, Q, R); by default
            those of all tokens. Not with `whole`.

    Returns:
        The outputs of all tokens, or of those that are wanted.
    """
    if whole:
        return _run_whole(encoder, index, rows, bias, rest)
    layer = encoder.layers[index]
    normalized = layer.normalize(rows)
    context = layer.keys_values_of(normalized)
    if wanted is not None:
        rows, bias = wanted
        normalized = layer.normalize(rows)
    attended = attention(layer.queries(normalized), context, bias, layer.projections.scale)
    return rest(layer.module, layer.add_attention(rows, merge_heads(attended)))


def _run_whole(encoder: Encoder, index: int, rows: Tensor, bias: Tensor | None, rest: Rest) -> Tensor:
    """Compute the same with the parts of the layer of transformers as it is now."""
    halves, module = halves_of(encoder, index), encoder.layer_modules()[index]

    def run(given: Tensor) -> Tensor:
        seen = None if bias is None else bias.expand(-1, -1, given.shape[1], -1)
        return rest(module, halves.attend(module, given, seen))

    if getattr(module, "gradient_checkpointing", False) and torch.is_grad_enabled() and not module.training:
        result: Tensor = checkpoint(run, rows, use_reentrant=False)
        return result
    return run(rows)
