"""BERT (Devlin et al., NAACL 2019): post-norm layers, nothing after the last; `model_type: bert`."""

from typing import Any

from torch import Tensor
from transformers import BertConfig, BertModel

from nas.encoders.base import FrozenEncoder, PostNormLayer, Projections
from nas.encoders.frozen import FrozenFeedForward


def _layer(layer: Any, config: BertConfig) -> PostNormLayer:
    block, output = layer.attention.self, layer.attention.output
    return PostNormLayer(
        layer,
        Projections(block.query, block.key, block.value, output.dense, config.num_attention_heads, block.scaling),
        norms=(output.LayerNorm, layer.output.LayerNorm),
        feed_forward=FrozenFeedForward(layer.intermediate.dense, str(config.hidden_act), layer.output.dense),
    )


class BertEncoder(FrozenEncoder):
    """`BertModel` as a stack of layers; the readout row is CLS."""

    def __init__(self, model: BertModel) -> None:
        super().__init__(model, [_layer(layer, model.config) for layer in model.encoder.layer], [model.embeddings])

    def embed(self, inputs: Tensor) -> Tensor:
        rows: Tensor = self.model.embeddings(inputs)
        return rows

    def finish(self, rows: Tensor) -> Tensor:
        return rows
