"""The objectives of VLMo (Bao et al., NeurIPS 2022): contrastive, matching, masked language.

For the contrastive embeddings the transformer reads an image alone, with expert V in every layer, or a text alone, with
expert L in every layer; for matching and masked language modelling it reads both, as for the classifier. The experts V
and L of the upper layers, which are read in the first way alone, are part of the pretraining only: they start as copies
of the layer's VL expert.

The paper trains in stages: on images, on texts alone with attention and V frozen, then on pairs. The first is the
pretraining of the image encoder given. The second are the steps of `pretraining.text_steps`, if there are any: masked
language modelling in which a text alone passes expert L of every layer. The experts L, the words with their linear map
and the head of the objective learn; all else is frozen, the attention, V, VL, the segments and the final norm. Without
these steps, L and the words learn in the last stage alone, together with everything else.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from nas.models.encoders.base import Encoder
from nas.models.encoders.split_layers import feed_forward_copy, halves_of, run_split
from nas.models.fusion.base import Features
from nas.models.fusion.pretraining import PretrainingModel, TokenStates
from nas.models.fusion.pretraining_heads import ContrastiveHead, MaskedLanguageHead, MatchingHead

if TYPE_CHECKING:
    from nas.models.fusion.vlmo.model import VLMo


class VLMoPretraining(PretrainingModel):
    """VLMo with heads for its three objectives, and experts of one modality in its upper layers.

    Args:
        model: The model.
    """

    model: "VLMo"

    def __init__(self, model: "VLMo") -> None:
        super().__init__(model)
        encoder, size = model.image_encoder, model.image_encoder.hidden_size
        upper = range(len(model.experts), encoder.num_layers)
        vision, language = ([feed_forward_copy(encoder, index) for index in upper] for _ in range(2))
        # Under this name, whose learning rate is theirs: they start from pretrained weights.
        self.image_encoder = nn.ModuleDict({"vision": nn.ModuleList(vision), "language": nn.ModuleList(language)})
        self.contrastive = ContrastiveHead(size, size)
        self.matching = MatchingHead(size)
        self.words = MaskedLanguageHead(size, model.text_encoder.model.get_input_embeddings())

    def upper_experts(self, name: Literal["vision", "language"]) -> list[nn.Module]:
        """Return the experts V or L of the upper layers."""
        return list(self.image_encoder[name].children())

    def encode_images(self, features: Features) -> TokenStates:
        return TokenStates(self.model.image_embeddings(features.to_dtype_of(self.model.classifier)))

    def encode_texts(self, features: Features) -> TokenStates:
        return TokenStates(self.model.text_embeddings(features), features.text_mask)

    def embed(self, images: TokenStates, texts: TokenStates) -> tuple[Tensor, Tensor]:
        model = self.model
        vision: list[nn.Module | None] = [
            *(None for _ in model.experts),
            *self.upper_experts("vision"),
        ]  # below, V is own
        image_read = self._readout(images, model.image_encoder, vision)
        text_read = self._readout(texts, model.text_encoder, self._language_experts())
        embeddings: tuple[Tensor, Tensor] = self.contrastive(image_read, text_read)
        return embeddings

    def _language_experts(self) -> list[nn.Module]:
        """Return expert L of every layer."""
        return [*self.model.experts, *self.upper_experts("language")]

    def _readout(self, states: TokenStates, reader: Encoder, experts: Sequence[nn.Module | None]) -> Tensor:
        """Return the readout of one modality alone, (B, D_img).

        Args:
            states: Its tokens as input of the first layer.
            reader: The encoder of the modality, whose readout tokens are read; the mean of several.
            experts: The expert of each layer; None for the layer's own.
        """
        return self.model.image_encoder.finish(self._alone(states, reader, experts)).mean(dim=1)

    def _alone(self, states: TokenStates, reader: Encoder | None, experts: Sequence[nn.Module | None]) -> Tensor:
        """Run all layers over one modality alone, and return the tokens that a reader reads, or all, (B, R, D_img).

        Args:
            states: Its tokens as input of the first layer.
            reader: The encoder of the modality, whose readout tokens are wanted; None for all tokens.
            experts: The expert of each layer; None for the layer's own.
        """
        encoder, rows, mask = self.model.image_encoder, states.rows, states.mask
        bias = encoder.data_bias(mask, rows.shape[1], rows.dtype)
        for index, expert in enumerate(experts):
            feed_forward = halves_of(encoder, index).feed_forward
            rest = feed_forward if expert is None else partial(_with_expert, feed_forward, expert)
            wanted = None
            if index == encoder.num_layers - 1 and reader is not None:
                wanted = reader.readout_rows(rows, mask), reader.readout_bias(bias, mask)
            rows = run_split(encoder, index, rows, bias, rest, whole=False, wanted=wanted)
        return rows

    @property
    def temperature(self) -> Tensor:
        return self.contrastive.temperature

    def match(self, images: TokenStates, texts: TokenStates) -> Tensor:
        logits: Tensor = self.matching(
            self.model.image_encoder.finish(self._joint(images, texts, all_tokens=False))[:, 0]
        )
        return logits

    def masked_token_logits(self, images: TokenStates, texts: TokenStates, places: Tensor) -> Tensor:
        rows = self._joint(images, texts, all_tokens=True).flatten(0, 1).index_select(0, places)
        logits: Tensor = self.words(self.model.image_encoder.finish(rows))
        return logits

    def text_token_logits(self, texts: TokenStates, places: Tensor) -> Tensor:
        rows = self._alone(texts, None, self._language_experts()).flatten(0, 1).index_select(0, places)
        logits: Tensor = self.words(self.model.image_encoder.finish(rows))
        return logits

    def text_weights(self) -> list[nn.Parameter]:
        learning = nn.ModuleList(
            [*self._language_experts(), self.model.text_encoder, self.model.projection, self.words]
        )
        return list(learning.parameters())

    def _joint(self, images: TokenStates, texts: TokenStates, *, all_tokens: bool) -> Tensor:
        lower = len(self.model.experts)
        return self.model.joint(images.rows, texts.rows, texts.mask, lower=lower, whole=False, all_tokens=all_tokens)


def _with_expert(feed_forward: Callable[[Any, Tensor], Tensor], expert: nn.Module, layer: Any, rows: Tensor) -> Tensor:
    del layer
    return feed_forward(expert, rows)
