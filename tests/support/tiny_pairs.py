"""A tiny fusion family that can be pretrained with every objective, and the features that it reads."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from nas.models.encoders.base import Encoder
from nas.models.encoders.checkpoints import trainable_copy
from nas.models.fusion.base import Features, FusionModel, classify
from nas.models.fusion.pretraining import PretrainingModel, TokenStates
from nas.models.fusion.pretraining_heads import ContrastiveHead, MaskedLanguageHead, MatchingHead
from nas.search.pretraining import OBJECTIVES
from nas.search.space import Architecture, EncoderSizes, Gene, GeneValue
from nas.search.space.family_registry import Family

FAMILY = "tiny_pairs"
ENTRY = Family("tests.support.tiny_pairs:TinyPairsArchitecture", "tests.support.tiny_pairs:TinyPairs")


@dataclass(frozen=True)
class TinyPairsArchitecture(Architecture):
    """One hidden layer on the CLS tokens of two trained encoders."""

    family = FAMILY
    title = "Tiny pairs"
    source = "For tests."
    genes = (Gene("hidden", "h", smallest=1),)
    trains = ("image", "text")
    pretraining_objectives = OBJECTIVES
    pretrains_on_texts = True

    hidden: GeneValue

    @classmethod
    def default(cls, sizes: EncoderSizes) -> Self:
        return cls(6)


class TinyPairs(FusionModel):
    """A hidden layer reads both CLS tokens, and a linear classifier the hidden layer."""

    architecture_class = TinyPairsArchitecture

    def build(self) -> None:
        image, text = self.encoders
        self.image_encoder, self.text_encoder = trainable_copy(image), trainable_copy(text)
        hidden = self.architecture.value_at("hidden", 0)[0]
        self.joint = nn.Linear(image.hidden_size + text.hidden_size, hidden)
        self.classifier = nn.Linear(hidden, self.num_classes)

    def forward(self, features: Features, architecture: Architecture | None = None) -> Tensor:
        del architecture
        return classify(self.classifier, self.fused(self.images(features), self.texts(features)))

    def images(self, features: Features) -> TokenStates:
        pixels = features.to(self.joint.weight.dtype).image_tokens
        return TokenStates(_states(self.image_encoder, pixels, None))

    def texts(self, features: Features) -> TokenStates:
        return TokenStates(_states(self.text_encoder, features.text_tokens, features.text_mask), features.text_mask)

    def fused(self, images: TokenStates, texts: TokenStates) -> Tensor:
        return torch.tanh(self.joint(torch.cat([images.rows[:, 0], texts.rows[:, 0]], dim=1)))

    def pretraining_model(self) -> "TinyPretraining":
        return TinyPretraining(self)


def _states(encoder: Encoder, inputs: Tensor, mask: Tensor | None) -> Tensor:
    rows = encoder.embed(inputs)
    bias = encoder.data_bias(mask, rows.shape[1], rows.dtype)
    return encoder.finish(encoder.run(rows, bias, start=0, stop=encoder.num_layers))


class TinyPretraining(PretrainingModel):
    """All objectives; a masked token is predicted from its state and the CLS token of the image."""

    model: TinyPairs

    def __init__(self, model: TinyPairs) -> None:
        super().__init__(model)
        image, text = model.encoders
        self.contrastive = ContrastiveHead(image.hidden_size, text.hidden_size, size=5)
        self.matching = MatchingHead(model.joint.out_features)
        self.image_to_text = nn.Linear(image.hidden_size, text.hidden_size)
        self.language = MaskedLanguageHead(text.hidden_size, model.text_encoder.model.get_input_embeddings())

    def encode_images(self, features: Features) -> TokenStates:
        return self.model.images(features)

    def encode_texts(self, features: Features) -> TokenStates:
        return self.model.texts(features)

    def embed(self, images: TokenStates, texts: TokenStates) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = self.contrastive(images.rows[:, 0], texts.rows[:, 0])
        return found

    @property
    def temperature(self) -> Tensor:
        return self.contrastive.temperature

    def match(self, images: TokenStates, texts: TokenStates) -> Tensor:
        logits: Tensor = self.matching(self.model.fused(images, texts))
        return logits

    def masked_token_logits(self, images: TokenStates, texts: TokenStates, places: Tensor) -> Tensor:
        rows = texts.rows + self.image_to_text(images.rows[:, :1])
        logits: Tensor = self.language(rows.flatten(0, 1).index_select(0, places))
        return logits

    def text_token_logits(self, texts: TokenStates, places: Tensor) -> Tensor:
        logits: Tensor = self.language(texts.rows.flatten(0, 1).index_select(0, places))
        return logits

    def text_weights(self) -> list[nn.Parameter]:
        return [*self.model.text_encoder.parameters(), *self.language.parameters()]
