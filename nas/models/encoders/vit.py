"""Vision Transformer (Dosovitskiy et al., ICLR 2021) and DeiT (Touvron et al., ICML 2021), `model_type: vit, deit`.

Pre-norm layers, LayerNorm after the last. The readout token is CLS, also in DeiT, where a distillation token
follows it.
"""

from typing import Any

from torch import Tensor, nn
from transformers import DeiTConfig, DeiTModel, ViTConfig, ViTModel

from nas.models.encoders.base import Encoder
from nas.models.encoders.frozen_ops import FrozenFeedForward
from nas.models.encoders.layers import Halves, PreNormLayer, Projections


def _attend(layer: Any, rows: Tensor, bias: Tensor | None) -> Tensor:
    attended: Tensor = layer.dropout(layer.attention(layer.layernorm_before(rows), bias)[0]) + rows
    return attended


def _feed_forward(layer: Any, rows: Tensor) -> Tensor:
    output: Tensor = layer.dropout(layer.mlp(layer.layernorm_after(rows))) + rows
    return output


_HALVES = Halves(_attend, _feed_forward, ("layernorm_after", "mlp", "dropout"))


def _layer(layer: Any, config: ViTConfig | DeiTConfig) -> PreNormLayer:
    block = layer.attention
    return PreNormLayer(
        layer,
        Projections(block.q_proj, block.k_proj, block.v_proj, block.o_proj, config.num_attention_heads, block.scaling),
        norms=(layer.layernorm_before, layer.layernorm_after),
        feed_forward=FrozenFeedForward(layer.mlp.fc1, str(config.hidden_act), layer.mlp.fc2),
        halves=_HALVES,
    )


class ViTEncoder(Encoder):
    """`ViTModel` or `DeiTModel` as a stack of layers."""

    def __init__(self, model: ViTModel | DeiTModel) -> None:
        layers: nn.ModuleList = model.layers
        super().__init__(model, [_layer(layer, model.config) for layer in layers], [model.embeddings])

    def embed(self, inputs: Tensor) -> Tensor:
        # In the other image families the embeddings convert the dtype of pixel values, in this one the model does.
        rows: Tensor = self.model.embeddings(inputs.to(self.model.embeddings.cls_token.dtype))
        return rows

    def finish(self, rows: Tensor) -> Tensor:
        normed: Tensor = self.model.layernorm(rows)
        return normed
