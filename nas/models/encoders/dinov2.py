"""DINOv2 (Oquab et al., TMLR 2024), also with registers (Darcet et al., ICLR 2024).

`model_type: dinov2, dinov2_with_registers`.

Pre-norm layers with layer scale, LayerNorm after the last; the readout token is CLS, and registers are tokens like any
other. The giant model's feed-forward is SwiGLU (Shazeer, arXiv 2002.05202).
"""

from typing import Any

from torch import Tensor
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from nas.models.encoders.base import Encoder
from nas.models.encoders.frozen_ops import FrozenFeedForward
from nas.models.encoders.layers import Halves, PreNormLayer, Projections


def _attend(layer: Any, rows: Tensor, bias: Tensor | None) -> Tensor:
    attended = layer.attention(layer.norm1(rows), attention_mask=bias)[0]
    added: Tensor = layer.drop_path(layer.layer_scale1(attended)) + rows
    return added


def _feed_forward(layer: Any, rows: Tensor) -> Tensor:
    output: Tensor = layer.drop_path(layer.layer_scale2(layer.mlp(layer.norm2(rows)))) + rows
    return output


_HALVES = Halves(_attend, _feed_forward, ("norm2", "mlp", "layer_scale2", "drop_path"))


def _layer(layer: Any, config: Dinov2Config | Dinov2WithRegistersConfig) -> PreNormLayer:
    block, mlp = layer.attention, layer.mlp
    return PreNormLayer(
        layer,
        Projections(block.q_proj, block.k_proj, block.v_proj, block.o_proj, config.num_attention_heads, block.scaling),
        norms=(layer.norm1, layer.norm2),
        # SwiGLU has three projections.
        feed_forward=mlp if config.use_swiglu_ffn else FrozenFeedForward(mlp.fc1, str(config.hidden_act), mlp.fc2),
        scales=(layer.layer_scale1, layer.layer_scale2),
        halves=_HALVES,
    )


class Dinov2Encoder(Encoder):
    """`Dinov2Model` or `Dinov2WithRegistersModel` as a stack of layers."""

    def __init__(self, model: Dinov2Model | Dinov2WithRegistersModel) -> None:
        super().__init__(model, [_layer(layer, model.config) for layer in model.encoder.layer], [model.embeddings])

    def embed(self, inputs: Tensor) -> Tensor:
        rows: Tensor = self.model.embeddings(inputs)
        return rows

    def finish(self, rows: Tensor) -> Tensor:
        normed: Tensor = self.model.layernorm(rows)
        return normed
