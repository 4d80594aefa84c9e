"""A small fusion family that embeds pictures and texts: linear projections of what both frozen encoders pool."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from nas.models.fusion.base import Features, FusionModel, classify, read_out
from nas.search.space import Architecture, EncoderSizes, EntryLayers, Gene
from nas.search.space.family_registry import FAMILIES, register_family

NAME = "test_pairs"


@dataclass(frozen=True)
class PairsArchitecture(Architecture):
    """Projections to some number of dimensions."""

    family = NAME
    title = "Pairs"
    source = "Projections of the frozen encoders."
    genes = (Gene("dimensions", "E", 1),)
    embeds_pairs: ClassVar[bool] = True

    dimensions: int

    @classmethod
    def default(cls, sizes: EncoderSizes) -> Self:
        del sizes
        return cls(8)

    def entry_layers(self, sizes: EncoderSizes) -> EntryLayers:
        return EntryLayers(sizes.image_layers, sizes.text_layers)


class Pairs(FusionModel):
    """Projections of both encoders; as a classifier, one that reads their product."""

    architecture_class = PairsArchitecture

    def build(self) -> None:
        image, text = self.encoders
        size = self.architecture.value_at("dimensions", 0)[0]
        self.image_projection = nn.Linear(image.hidden_size, size)
        self.text_projection = nn.Linear(text.hidden_size, size)
        self.log_temperature = nn.Parameter(torch.tensor(-2.0))
        if self.num_classes:
            self.classifier = nn.Linear(size, self.num_classes)

    @property
    def temperature(self) -> Tensor:
        return self.log_temperature.exp()

    def contrastive_embeddings(
        self, features: Features, architecture: Architecture | None = None
    ) -> tuple[Tensor, Tensor]:
        features = features.to_dtype_of(self.image_projection)
        size = (architecture or self.architecture).value_at("dimensions", 0)[0]
        image, text = self.encoders
        rows = (
            read_out(image, features.image_tokens, None, "pooled"),
            read_out(text, features.text_tokens, features.text_mask, "pooled"),
        )
        found = [
            normalize(nn.functional.linear(row, layer.weight[:size], layer.bias[:size]), dim=1)
            for row, layer in zip(rows, (self.image_projection, self.text_projection), strict=True)
        ]
        return found[0], found[1]

    def forward(self, features: Features, architecture: Architecture | None = None) -> Tensor:
        image, text = self.contrastive_embeddings(features, architecture)
        size = image.shape[1]
        return classify(self.classifier, nn.functional.pad(image * text, (0, self.classifier.in_features - size)))


@contextmanager
def registered_pairs() -> Iterator[None]:
    """Register the family for some tests; others see the families of the program alone."""
    register_family(
        NAME, architecture="tests.support.pair_family:PairsArchitecture", model="tests.support.pair_family:Pairs"
    )
    try:
        yield
    finally:
        FAMILIES._entries.pop(NAME)
