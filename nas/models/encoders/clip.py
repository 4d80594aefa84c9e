"""Both encoders of CLIP (Radford et al., ICML 2021).

`model_type: clip_vision_model, clip_text_model`, and either encoder of a `clip` checkpoint.

Pre-norm layers, LayerNorm after the last. The image encoder also has one before the first layer, and its readout token
is CLS; the text encoder is causal, and its readout token is the end-of-text token.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

from nas.models.encoders.base import Encoder
from nas.models.encoders.frozen_ops import FrozenFeedForward
from nas.models.encoders.layers import Halves, PreNormLayer, Projections


def _attend(layer: Any, rows: Tensor, bias: Tensor | None) -> Tensor:
    attended: Tensor = rows + layer.self_attn(hidden_states=layer.layer_norm1(rows), attention_mask=bias)[0]
    return attended


def _feed_forward(layer: Any, rows: Tensor) -> Tensor:
    output: Tensor = rows + layer.mlp(layer.layer_norm2(rows))
    return output


_HALVES = Halves(_attend, _feed_forward, ("layer_norm2", "mlp"))


def _layer(layer: Any, config: CLIPVisionConfig | CLIPTextConfig) -> PreNormLayer:
    block = layer.self_attn
    return PreNormLayer(
        layer,
        Projections(block.q_proj, block.k_proj, block.v_proj, block.out_proj, config.num_attention_heads, block.scale),
        norms=(layer.layer_norm1, layer.layer_norm2),
        feed_forward=FrozenFeedForward(layer.mlp.fc1, str(config.hidden_act), layer.mlp.fc2),
        halves=_HALVES,
    )


class CLIPVisionEncoder(Encoder):
    """`CLIPVisionModel` as a stack of layers."""

    def __init__(self, model: CLIPVisionModel) -> None:
        layers = [_layer(layer, model.config) for layer in model.encoder.layers]
        super().__init__(model, layers, [model.embeddings, model.pre_layrnorm])

    def embed(self, inputs: Tensor) -> Tensor:
        return self.as_embeddings(self.model.embeddings(inputs))

    @property
    def embedding_norm(self) -> nn.Module:
        norm: nn.Module = self.model.pre_layrnorm
        return norm

    def finish(self, rows: Tensor) -> Tensor:
        normed: Tensor = self.model.post_layernorm(rows)
        return normed


class CLIPTextEncoder(Encoder):
    """`CLIPTextModel` as a stack of layers."""

    # transformers reads the first end-of-text token (in old configurations: the first token with the highest id, which
    # is the same one). The tokenizer appends exactly one to every text, truncated or not; padding, which may have the
    # same id, follows it. So it is the last token that is not padding.
    readout = "last"

    def __init__(self, model: CLIPTextModel) -> None:
        layers = [_layer(layer, model.config) for layer in model.encoder.layers]
        super().__init__(model, layers, [model.embeddings])

    def embed(self, inputs: Tensor) -> Tensor:
        rows: Tensor = self.model.embeddings(inputs)
        return rows

    def data_bias(self, mask: Tensor | None, row_count: int, dtype: torch.dtype) -> Tensor:
        device = self.model.final_layer_norm.weight.device
        causal = torch.full((1, 1, row_count, row_count), float("-inf"), dtype=dtype, device=device).triu(1)
        padding = super().data_bias(mask, row_count, dtype)
        return causal if padding is None else causal + padding

    def finish(self, rows: Tensor) -> Tensor:
        normed: Tensor = self.model.final_layer_norm(rows)
        return normed
