"""Pretraining of UNITER: matching and masked language modelling (Chen et al., ECCV 2020, section 3.2).

Both read the outputs of the text transformer over words and image tokens: a linear layer CLS, and BERT's head the
masked words. The paper's masked region modelling and word-region alignment are left out.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nas.models.fusion.base import Features
from nas.models.fusion.joint_attention import joint_bias, read_out_with
from nas.models.fusion.pretraining import PretrainingModel, TokenStates
from nas.models.fusion.pretraining_heads import MaskedLanguageHead, MatchingHead

if TYPE_CHECKING:
    from nas.models.fusion.uniter.model import UNITER


class UNITERPretraining(PretrainingModel):
    """A UNITER model with the heads of its objectives.

    The states of an image are its projected tokens, those of a text the outputs of the layers that read it alone.

    Args:
        model: The model whose weights are pretrained.
    """

    model: "UNITER"

    def __init__(self, model: "UNITER") -> None:
        super().__init__(model)
        size = model.encoders[1].hidden_size
        self.matching = MatchingHead(size)
        self.masked_language = MaskedLanguageHead(size, model.text_encoder.model.get_input_embeddings())

    def encode_images(self, features: Features) -> TokenStates:
        return TokenStates(self.model.embed_images(features))

    def encode_texts(self, features: Features) -> TokenStates:
        return TokenStates(self.model.embed_texts(features, self._start), features.text_mask)

    def match(self, images: TokenStates, texts: TokenStates) -> Tensor:
        encoder = self.model.text_encoder
        read = read_out_with(encoder, texts.rows, texts.mask, [images.rows], start=self._start, whole=False)
        logits: Tensor = self.matching(read)
        return logits

    def masked_token_logits(self, images: TokenStates, texts: TokenStates, places: Tensor) -> Tensor:
        encoder, count = self.model.text_encoder, texts.rows.shape[1]
        bias = joint_bias(encoder, texts.rows, texts.mask, images.rows.shape[1])
        rows = torch.cat([texts.rows, images.rows], dim=1)
        rows = encoder.run(rows, bias, start=self._start, stop=encoder.num_layers)[:, :count]
        logits: Tensor = self.masked_language(encoder.finish(rows).flatten(0, 1).index_select(0, places))
        return logits

    @property
    def _start(self) -> int:
        """The first layer that reads the image."""
        return self.model.architecture.first_layer
