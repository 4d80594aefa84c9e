"""BERT (Devlin et al., NAACL 2019), RoBERTa (Liu et al., arXiv 1907.11692) and ELECTRA (Clark et al., ICLR 2020).

`model_type: bert, roberta, electra`.

Post-norm layers, nothing after the last; the readout token is CLS.
"""

from typing import Any

from torch import Tensor, nn
from transformers import BertConfig, BertModel, ElectraConfig, ElectraModel, RobertaConfig, RobertaModel

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


def _layer(layer: Any, config: BertConfig | RobertaConfig | ElectraConfig) -> PostNormLayer:
    block, output = layer.attention.self, layer.attention.output
    return PostNormLayer(
        layer,
        Projections(block.query, block.key, block.value, output.dense, config.num_attention_heads, block.scaling),
        norms=(output.LayerNorm, layer.output.LayerNorm),
        feed_forward=FrozenFeedForward(layer.intermediate.dense, str(config.hidden_act), layer.output.dense),
        halves=_HALVES,
    )


class BertEncoder(Encoder):
    """`BertModel` as a stack of layers."""

    def __init__(self, model: BertModel | RobertaModel) -> None:
        super().__init__(model, [_layer(layer, model.config) for layer in model.encoder.layer], [model.embeddings])

    def embed(self, inputs: Tensor) -> Tensor:
        rows: Tensor = self.model.embeddings(inputs)
        return rows

    def finish(self, rows: Tensor) -> Tensor:
        return rows


class RobertaEncoder(BertEncoder):
    """`RobertaModel` as a stack of layers; positions start after the id of the padding token."""

    @property
    def max_text_tokens(self) -> int:
        return super().max_text_tokens - int(self.model.embeddings.padding_idx) - 1


class ElectraEncoder(Encoder):
    """`ElectraModel` as a stack of layers; small models project embeddings of another size."""

    def __init__(self, model: ElectraModel) -> None:
        embedding: list[nn.Module] = [model.embeddings]
        if hasattr(model, "embeddings_project"):
            embedding.append(model.embeddings_project)
        super().__init__(model, [_layer(layer, model.config) for layer in model.encoder.layer], embedding)

    def embed(self, inputs: Tensor) -> Tensor:
        rows: Tensor = self.model.embeddings(inputs)
        if hasattr(self.model, "embeddings_project"):
            rows = self.model.embeddings_project(rows)
        return rows

    def finish(self, rows: Tensor) -> Tensor:
        return rows
