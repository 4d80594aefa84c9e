"""The image encoder of SigLIP (Zhai et al., ICCV 2023).

`model_type: siglip_vision_model`, and that encoder in a `siglip` checkpoint (including SigLIP 2 models of a fixed
resolution).

Pre-norm layers, LayerNorm after the last. There is no CLS token: a learned query attends to all tokens.
"""

from typing import Any

from torch import Tensor
from transformers import SiglipVisionConfig, SiglipVisionModel

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


def _layer(layer: Any, config: SiglipVisionConfig) -> PreNormLayer:
    block = layer.self_attn
    return PreNormLayer(
        layer,
        Projections(block.q_proj, block.k_proj, block.v_proj, block.out_proj, config.num_attention_heads, block.scale),
        norms=(layer.layer_norm1, layer.layer_norm2),
        feed_forward=FrozenFeedForward(layer.mlp.fc1, str(config.hidden_act), layer.mlp.fc2),
        halves=_HALVES,
    )


class SiglipVisionEncoder(Encoder):
    """`SiglipVisionModel` as a stack of layers."""

    readout = "all"

    def __init__(self, model: SiglipVisionModel) -> None:
        layers = [_layer(layer, model.config) for layer in model.encoder.layers]
        super().__init__(model, layers, [model.embeddings])

    def embed(self, inputs: Tensor) -> Tensor:
        rows: Tensor = self.model.embeddings(inputs)
        return rows

    def finish(self, rows: Tensor) -> Tensor:
        normed: Tensor = self.model.post_layernorm(rows)
        return normed

    def pool(self, rows: Tensor) -> Tensor:
        # Without the pooling head the tokens are averaged, as in transformers' own classifier.
        pooled: Tensor = self.model.head(rows) if self.model.use_head else rows.mean(dim=1)
        return pooled

    @property
    def pools_by_mean(self) -> bool:
        return not self.model.use_head

    def drop_unread(self, *, pooling: bool) -> None:
        super().drop_unread(pooling=pooling)
        if pooling and self.model.use_head:
            self.model.use_head = False
            del self.model.head
