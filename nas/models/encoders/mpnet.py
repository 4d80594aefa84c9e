"""MPNet (Song et al., NeurIPS 2020): BERT's layers with a bias for each distance between tokens; `model_type: mpnet`.

Post-norm layers, nothing after the last; the readout token is CLS. All layers share the biases, one per head and
distance.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import MPNetConfig, MPNetModel

from nas.models.encoders.base import Encoder
from nas.models.encoders.frozen_ops import FrozenFeedForward
from nas.models.encoders.layers import Halves, PostNormLayer, Projections


def _attend(layer: Any, rows: Tensor, bias: Tensor | None) -> Tensor:
    attended: Tensor = layer.attention(rows, bias)[0]
    return attended


def _feed_forward(layer: Any, rows: Tensor) -> Tensor:
    output: Tensor = layer.output(layer.intermediate(rows), rows)
    return output


_HALVES = Halves(_attend, _feed_forward, ("intermediate", "output"))


def _layer(layer: Any, config: MPNetConfig) -> PostNormLayer:
    attention = layer.attention
    block, scale = attention.attn, attention.attn.attention_head_size**-0.5
    return PostNormLayer(
        layer,
        Projections(block.q, block.k, block.v, block.o, config.num_attention_heads, scale),
        norms=(attention.LayerNorm, layer.output.LayerNorm),
        feed_forward=FrozenFeedForward(layer.intermediate.dense, str(config.hidden_act), layer.output.dense),
        halves=_HALVES,
    )


class MPNetEncoder(Encoder):
    """`MPNetModel` as a stack of layers; positions start after the id of the padding token."""

    def __init__(self, model: MPNetModel) -> None:
        super().__init__(model, [_layer(layer, model.config) for layer in model.encoder.layer], [model.embeddings])

    @property
    def max_text_tokens(self) -> int:
        return super().max_text_tokens - int(self.model.embeddings.padding_idx) - 1

    def embed(self, inputs: Tensor) -> Tensor:
        rows: Tensor = self.model.embeddings(inputs)
        return rows

    def data_bias(self, mask: Tensor | None, row_count: int, dtype: torch.dtype) -> Tensor:
        encoder = self.model.encoder
        # Only the shape of this tensor is read.
        sample = torch.empty(1, row_count, device=encoder.relative_attention_bias.weight.device)
        relative: Tensor = encoder.compute_position_bias(sample).to(dtype)  # (1, H, R, R)
        padding = super().data_bias(mask, row_count, dtype)
        return relative if padding is None else relative + padding

    def finish(self, rows: Tensor) -> Tensor:
        return rows
