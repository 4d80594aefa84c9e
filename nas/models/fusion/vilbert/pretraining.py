"""Pretraining of ViLBERT: matching and masked language modelling (Lu et al., NeurIPS 2019, section 2.3).

The product of both streams' readouts tells whether they match ("multi-modal alignment prediction"), and the text stream
predicts its masked tokens. The masked regions of the paper's "masked multi-modal modelling" are left out.
"""

from typing import TYPE_CHECKING

from torch import Tensor

from nas.models.fusion.base import Features
from nas.models.fusion.pretraining import PretrainingModel, TokenStates
from nas.models.fusion.pretraining_heads import MaskedLanguageHead, MatchingHead

if TYPE_CHECKING:
    from nas.models.fusion.vilbert.model import ViLBERT


class ViLBERTPretraining(PretrainingModel):
    """A ViLBERT model with the heads of its objectives; the states are the streams at the first co-attention layer.

    Args:
        model: The model whose weights are pretrained.
    """

    model: "ViLBERT"

    def __init__(self, model: "ViLBERT") -> None:
        super().__init__(model)
        size = model.encoders[1].hidden_size
        self.matching = MatchingHead(model.classifier.in_features)
        self.masked_language = MaskedLanguageHead(size, model.text_encoder.model.get_input_embeddings())

    def encode_images(self, features: Features) -> TokenStates:
        return TokenStates(self.model.embed_images(features, self.model.architecture))

    def encode_texts(self, features: Features) -> TokenStates:
        return TokenStates(self.model.embed_texts(features, self.model.architecture), features.text_mask)

    def match(self, images: TokenStates, texts: TokenStates) -> Tensor:
        z, t, left = self._exchange(images, texts)
        logits: Tensor = self.matching(self.model.product(z, t, texts.mask, left, whole=False))
        return logits

    def masked_token_logits(self, images: TokenStates, texts: TokenStates, places: Tensor) -> Tensor:
        _, t, left = self._exchange(images, texts)
        encoder = self.model.text_encoder
        bias = encoder.data_bias(texts.mask, t.shape[1], t.dtype)
        t = encoder.finish(encoder.run(t, bias, start=encoder.num_layers - left, stop=encoder.num_layers))
        logits: Tensor = self.masked_language(t.flatten(0, 1).index_select(0, places))
        return logits

    def _exchange(self, images: TokenStates, texts: TokenStates) -> tuple[Tensor, Tensor, int]:
        model = self.model
        return model.exchange(images.rows, texts.rows, texts.mask, model.architecture, whole=False)
