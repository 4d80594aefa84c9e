"""Vision Transformer (Dosovitskiy et al., ICLR 2021): pre-norm layers, LayerNorm after the last; `model_type: vit`."""

from typing import Any

from torch import Tensor
from transformers import ViTConfig, ViTModel

from nas.encoders.base import EncoderLayer, FrozenEncoder, KeysValues, attention, split_heads


class PreNormLayer(EncoderLayer):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, layer: Any, head_count: int) -> None:
        self.layer = layer
        self.head_count = head_count

    def keys_values(self, rows: Tensor) -> KeysValues:
        normed, block = self.layer.layernorm_before(rows), self.layer.attention
        return KeysValues(
            split_heads(block.k_proj(normed), self.head_count), split_heads(block.v_proj(normed), self.head_count)
        )

    def attend(self, rows: Tensor, context: KeysValues, bias: Tensor | None) -> Tensor:
        block = self.layer.attention
        queries = split_heads(block.q_proj(self.layer.layernorm_before(rows)), self.head_count)
        rows = rows + block.o_proj(attention(queries, context, bias, block.scaling))
        output: Tensor = rows + self.layer.mlp(self.layer.layernorm_after(rows))
        return output


class ViTEncoder(FrozenEncoder):
    """`ViTModel` as a stack of layers; the readout row is CLS after the final LayerNorm."""

    def __init__(self, model: ViTModel) -> None:
        super().__init__(model, [PreNormLayer(layer, model.config.num_attention_heads) for layer in model.layers])

    @classmethod
    def from_config(cls, config: ViTConfig) -> "ViTEncoder":
        return cls(ViTModel(config, add_pooling_layer=False))

    def embed(self, inputs: Tensor) -> Tensor:
        rows: Tensor = self.model.embeddings(inputs)
        return rows

    def finish(self, rows: Tensor) -> Tensor:
        normed: Tensor = self.model.layernorm(rows)
        return normed
