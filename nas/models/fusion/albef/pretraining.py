"""The objectives of ALBEF (Li et al., NeurIPS 2021, section 3.2): contrastive, matching, masked language.

The contrastive embeddings come from the image encoder and from the layers of the text below the first one with
cross-attention; matching and masked language modelling from the last layer.
"""

from typing import TYPE_CHECKING

from torch import Tensor

from nas.models.encoders.base import mean_over_tokens
from nas.models.fusion.base import Features
from nas.models.fusion.pretraining import PretrainingModel, TokenStates
from nas.models.fusion.pretraining_heads import ContrastiveHead, MaskedLanguageHead, MatchingHead

if TYPE_CHECKING:
    from nas.models.fusion.albef.model import ALBEF


class ALBEFPretraining(PretrainingModel):
    """ALBEF with heads for its three objectives.

    Args:
        model: The model.
    """

    model: "ALBEF"

    def __init__(self, model: "ALBEF") -> None:
        super().__init__(model)
        image, text = model.encoders
        self.contrastive = ContrastiveHead(image.hidden_size, text.hidden_size)
        self.matching = MatchingHead(text.hidden_size)
        self.words = MaskedLanguageHead(text.hidden_size, model.text_encoder.model.get_input_embeddings())

    def encode_images(self, features: Features) -> TokenStates:
        return TokenStates(self.model.image_states(features.to_dtype_of(self.model.classifier)))

    def encode_texts(self, features: Features) -> TokenStates:
        return TokenStates(self.model.text_states(features, self._first), features.text_mask)

    def embed(self, images: TokenStates, texts: TokenStates) -> tuple[Tensor, Tensor]:
        image, text = self.model.image_encoder, self.model.text_encoder
        image_read = images.rows.mean(dim=1) if image.readout == "all" else image.readout_rows(images.rows, None)[:, 0]
        if self._first:
            text_read = text.readout_rows(texts.rows, texts.mask)[:, 0]
        else:  # CLS has read nothing yet
            text_read = mean_over_tokens(texts.rows, texts.mask)
        embeddings: tuple[Tensor, Tensor] = self.contrastive(image_read, text_read)
        return embeddings

    @property
    def temperature(self) -> Tensor:
        return self.contrastive.temperature

    def match(self, images: TokenStates, texts: TokenStates) -> Tensor:
        text = self.model.text_encoder
        logits: Tensor = self.matching(text.pool(text.finish(self._fused(images, texts, all_tokens=False))))
        return logits

    def masked_token_logits(self, images: TokenStates, texts: TokenStates, places: Tensor) -> Tensor:
        rows = self._fused(images, texts, all_tokens=True).flatten(0, 1).index_select(0, places)
        logits: Tensor = self.words(self.model.text_encoder.finish(rows))
        return logits

    def _fused(self, images: TokenStates, texts: TokenStates, *, all_tokens: bool) -> Tensor:
        return self.model.fused(
            images.rows, texts.rows, texts.mask, start=self._first, whole=False, all_tokens=all_tokens
        )

    @property
    def _first(self) -> int:
        """The first layer with cross-attention."""
        return self.model.architecture.first_layer
