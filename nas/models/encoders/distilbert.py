"""DistilBERT (Sanh et al., arXiv 1910.01108): the layers of BERT, but fewer; `model_type: distilbert`.

Post-norm layers, nothing after the last; the readout token is CLS.
"""

from typing import Any

from torch import Tensor
from transformers import DistilBertConfig, DistilBertModel

from nas.models.encoders.base import Encoder
from nas.models.encoders.frozen_ops import FrozenFeedForward
from nas.models.encoders.layers import Halves, PostNormLayer, Projections


def _attend(layer: Any, rows: Tensor, bias: Tensor | None) -> Tensor:
    attended: Tensor = layer.sa_layer_norm(layer.attention(rows, attention_mask=bias)[0] + rows)
    return attended


def _feed_forward(layer: Any, rows: Tensor) -> Tensor:
    output: Tensor = layer.output_layer_norm(layer.ffn(rows) + rows)
    return output


_HALVES = Halves(_attend, _feed_forward, ("ffn", "output_layer_norm"))


def _layer(layer: Any, config: DistilBertConfig) -> PostNormLayer:
    block = layer.attention
    return PostNormLayer(
        layer,
        Projections(block.q_lin, block.k_lin, block.v_lin, block.out_lin, config.n_heads, block.scaling),
        norms=(layer.sa_layer_norm, layer.output_layer_norm),
        feed_forward=FrozenFeedForward(layer.ffn.lin1, config.activation, layer.ffn.lin2),
        halves=_HALVES,
    )


class DistilBertEncoder(Encoder):
    """`DistilBertModel` as a stack of layers."""

    def __init__(self, model: DistilBertModel) -> None:
        super().__init__(model, [_layer(layer, model.config) for layer in model.transformer.layer], [model.embeddings])

    def embed(self, inputs: Tensor) -> Tensor:
        rows: Tensor = self.model.embeddings(inputs)
        return rows

    def finish(self, rows: Tensor) -> Tensor:
        return rows
