"""BERT (Devlin et al., NAACL 2019): post-norm layers, nothing after the last; `model_type: bert`."""

from typing import Any

from torch import Tensor
from transformers import BertConfig, BertModel

from nas.encoders.base import EncoderLayer, FrozenEncoder, KeysValues, attention, split_heads


class PostNormLayer(EncoderLayer):
    """norm(x + attention(x)), then norm(x + feed-forward(x))."""

    def __init__(self, layer: Any, head_count: int) -> None:
        self.layer = layer
        self.head_count = head_count

    def keys_values(self, rows: Tensor) -> KeysValues:
        block = self.layer.attention.self
        return KeysValues(
            split_heads(block.key(rows), self.head_count), split_heads(block.value(rows), self.head_count)
        )

    def attend(self, rows: Tensor, context: KeysValues, bias: Tensor | None) -> Tensor:
        block = self.layer.attention
        queries = split_heads(block.self.query(rows), self.head_count)
        rows = block.output(attention(queries, context, bias, block.self.scaling), rows)
        output: Tensor = self.layer.output(self.layer.intermediate(rows), rows)
        return output


class BertEncoder(FrozenEncoder):
    """`BertModel` as a stack of layers; the readout row is CLS."""

    def __init__(self, model: BertModel) -> None:
        super().__init__(
            model, [PostNormLayer(layer, model.config.num_attention_heads) for layer in model.encoder.layer]
        )

    @classmethod
    def from_config(cls, config: BertConfig) -> "BertEncoder":
        return cls(BertModel(config, add_pooling_layer=False))

    def embed(self, inputs: Tensor) -> Tensor:
        rows: Tensor = self.model.embeddings(inputs)
        return rows

    def finish(self, rows: Tensor) -> Tensor:
        return rows
