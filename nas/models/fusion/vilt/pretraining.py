"""Pretraining of ViLT: matching and masked language modelling (Kim et al., ICML 2021, section 3.2).

Both read the outputs of the one transformer: a linear layer the first token of the text, and BERT's head the masked
tokens. The paper's word patch alignment and whole word masking are left out.
"""

from typing import TYPE_CHECKING

from torch import Tensor

from nas.models.fusion.base import Features
from nas.models.fusion.pretraining import PretrainingModel, TokenStates
from nas.models.fusion.pretraining_heads import MaskedLanguageHead, MatchingHead

if TYPE_CHECKING:
    from nas.models.fusion.vilt.model import ViLT


class ViLTPretraining(PretrainingModel):
    """A ViLT model with the heads of its objectives; the states of a sample are its embeddings.

    Args:
        model: The model whose weights are pretrained.
    """

    model: "ViLT"

    def __init__(self, model: "ViLT") -> None:
        super().__init__(model)
        size = model.encoders[0].hidden_size
        self.matching = MatchingHead(size)
        self.masked_language = MaskedLanguageHead(size, model.text_encoder.model.get_input_embeddings())

    def encode_images(self, features: Features) -> TokenStates:
        return TokenStates(self.model.embed_images(features))

    def encode_texts(self, features: Features) -> TokenStates:
        return TokenStates(self.model.embed_texts(features), features.text_mask)

    def match(self, images: TokenStates, texts: TokenStates) -> Tensor:
        logits: Tensor = self.matching(self._outputs(images, texts, 1)[:, 0])
        return logits

    def masked_token_logits(self, images: TokenStates, texts: TokenStates, places: Tensor) -> Tensor:
        outputs = self._outputs(images, texts, texts.rows.shape[1]).flatten(0, 1)
        logits: Tensor = self.masked_language(outputs.index_select(0, places))
        return logits

    def _outputs(self, images: TokenStates, texts: TokenStates, count: int) -> Tensor:
        """Return the outputs of the first tokens of the texts, (N, count, D_img)."""
        depth = self.model.architecture.depth
        return self.model.outputs(texts.rows, texts.mask, images.rows, count, depth=depth, whole=False)
