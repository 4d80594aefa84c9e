"""Complete classifiers of every fusion family, as a user of transformers loads them."""

from typing import cast

import torch
from torch import nn

from nas.models.classifier import FusionForClassification
from nas.models.encoders.base import Encoder
from nas.models.fusion.supernet import build_model
from nas.run.export import assemble
from nas.search.space import Architecture
from tests.support.tiny import bert_model, vit_model
from tests.support.tiny_clip import pair_for, texts_for

CLASSES = 5


def as_module(model: FusionForClassification) -> nn.Module:
    """Return the model with the types of `nn.Module`, which transformers hides in some methods."""
    return cast(nn.Module, model)


def tiny_classifier(
    architecture: Architecture, *, dtype: torch.dtype = torch.float64, pair: tuple[Encoder, Encoder] | None = None
) -> FusionForClassification:
    """Build a classifier with random weights, among them those of the fusion model, in evaluation mode."""
    image, text = pair or pair_for(architecture.family, dtype)
    fusion = build_model(
        image_encoder=image,
        text_encoder=text,
        architecture=architecture,
        num_classes=CLASSES,
        seed=0,
        class_texts=texts_for(architecture.family, CLASSES),
    )
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.05)
    model = assemble(
        image_encoder=image,
        text_encoder=text,
        trained=fusion,
        class_names=[f"class {index}" for index in range(CLASSES)],
        max_text_tokens=12,
    )
    return cast(FusionForClassification, as_module(model).to(dtype))


class LowRank(nn.Module):
    """A linear layer with a trained low-rank change, as adapters add one."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        dtype = base.weight.dtype
        self.down = nn.Linear(base.in_features, 2, bias=False, dtype=dtype)
        self.up = nn.Linear(2, base.out_features, bias=False, dtype=dtype)

    @property
    def weight(self) -> torch.Tensor:
        return self.base.weight

    @property
    def bias(self) -> torch.Tensor | None:
        return self.base.bias

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        changed: torch.Tensor = self.base(rows) + self.up(self.down(rows))
        return changed


def encoder_models(model: FusionForClassification) -> list[nn.Module]:
    """Return the image and the text model of transformers that a classifier uses; an unused one is fresh."""
    found = []
    for name, fallback in (("image_encoder", vit_model), ("text_encoder", bert_model)):
        encoder = getattr(model, name, None) or getattr(model.fusion, name, None)
        found.append(fallback() if encoder is None else encoder.model)
    return found
