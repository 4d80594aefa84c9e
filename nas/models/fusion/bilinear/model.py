"""A linear classifier on what is read out of both frozen encoders, and on products of the two.

Each readout is projected to k components; the product of every component of the image with every one of the text is an
input of the classifier, besides both readouts themselves. For one image the logits are linear in the text and the other
way round (Tenenbaum and Freeman, "Separating Style and Content with Bilinear Models", Neural Computation 2000), so the
model sees whether picture and text belong together, which a sum of one term for each cannot.

In a search of this family the projections are trained like the classifier. In the simple model of every search they are
whitened principal components; see `nas.training.bilinear`.
"""

import itertools
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from nas.models.fusion.base import Features, FusionModel, classify, read_out
from nas.models.fusion.bilinear.architecture import BilinearArchitecture
from nas.models.fusion.readouts import Readout, readouts_of
from nas.search.space import MODALITIES, Architecture

_CLASSIFIER = "classifier"
_PROJECTION = "projection"

Pair = tuple[Readout, Readout]


def product_order(count: int) -> Tensor:
    """Return the order of the k² products, as indices i · k + j of components i of the image and j of the text.

    The products of the first components come first, so that those of fewer components are a prefix.

    Args:
        count: The number k of components.
    """
    pairs = sorted(itertools.product(range(count), repeat=2), key=lambda pair: (max(pair), pair))
    return torch.tensor([first * count + second for first, second in pairs], dtype=torch.int64)


def with_products(image: Tensor, text: Tensor, image_components: Tensor, text_components: Tensor) -> Tensor:
    """Return the inputs of the classifier: both readouts, and the products of their components.

    Args:
        image: The image readout, (B, D_img).
        text: The text readout, (B, D_txt).
        image_components: The components of the image readout, (B, k).
        text_components: The components of the text readout, (B, k).

    Returns:
        The inputs, (B, D_img + D_txt + k²).
    """
    order = product_order(image_components.shape[1]).to(image.device)
    products = (image_components[:, :, None] * text_components[:, None, :]).flatten(1)
    return torch.cat([image, text, products.index_select(1, order)], dim=1)


class Bilinear(FusionModel):
    """Projections of both readouts and a linear classifier, or some for each readout and each pair of them."""

    architecture_class = BilinearArchitecture
    architecture: BilinearArchitecture
    classifier: nn.Linear
    """The classifier of a model that is no supernet."""

    def build(self) -> None:
        count, size = self.architecture.components, 0
        for modality, encoder, readouts in zip(MODALITIES, self.encoders, self._served, strict=True):
            size += encoder.hidden_size
            for readout in readouts:
                self.add_module(self._projection_name(modality, readout), nn.Linear(encoder.hidden_size, count))
        for pair in self._pairs:
            self.add_module(self._classifier_name(pair), nn.Linear(size + count**2, self.num_classes))

    def forward(self, features: Features, architecture: Architecture | None = None) -> Tensor:
        chosen = self._own(architecture or self.architecture)
        pair, classifier = chosen.readouts, self.classifier_of(chosen)
        features = features.to_dtype_of(classifier)
        tokens, masks = (features.image_tokens, features.text_tokens), (None, features.text_mask)
        image, text = (read_out(*given) for given in zip(self.encoders, tokens, masks, pair, strict=True))
        return classify(classifier, self.classifier_inputs(image, text, chosen))

    def classifier_inputs(self, image: Tensor, text: Tensor, architecture: BilinearArchitecture) -> Tensor:
        """Return the inputs of the classifier, (B, D_img + D_txt + k²).

        The products that an architecture with fewer components lacks are zero.

        Args:
            image: The image readout, (B, D_img).
            text: The text readout, (B, D_txt).
            architecture: The architecture.
        """
        projected = [layer(rows) for layer, rows in zip(self.projections_of(architecture), (image, text), strict=True)]
        missing = self.architecture.components - architecture.components
        if missing:
            projected = [pad(rows[:, : architecture.components], (0, missing)) for rows in projected]
        return with_products(image, text, *projected)

    def used_parameters(self, architecture: Architecture) -> list[nn.Parameter]:
        chosen = self._own(architecture)
        layers = (*self.projections_of(chosen), self.classifier_of(chosen))
        return [parameter for layer in layers for parameter in layer.parameters()]

    def source_of(self, name: str, architecture: Architecture) -> str:
        chosen = self._own(architecture)
        names = {_CLASSIFIER: self._classifier_name(chosen.readouts)}
        for modality, readout in zip(MODALITIES, chosen.readouts, strict=True):
            names[f"{modality}_{_PROJECTION}"] = self._projection_name(modality, readout)
        layer, _, tensor = name.rpartition(".")
        return f"{names[layer]}.{tensor}"

    def projections_of(self, architecture: BilinearArchitecture) -> tuple[nn.Linear, nn.Linear]:
        """Return the projections of the image and of the text readout."""
        image, text = (
            cast(nn.Linear, self.get_submodule(self._projection_name(modality, readout)))
            for modality, readout in zip(MODALITIES, architecture.readouts, strict=True)
        )
        return image, text

    def classifier_of(self, architecture: BilinearArchitecture) -> nn.Linear:
        """Return the classifier of a pair of readouts."""
        return cast(nn.Linear, self.get_submodule(self._classifier_name(architecture.readouts)))

    @staticmethod
    def _own(architecture: Architecture) -> BilinearArchitecture:
        assert isinstance(architecture, BilinearArchitecture)
        return architecture

    @property
    def _served(self) -> tuple[tuple[Readout, ...], tuple[Readout, ...]]:
        """The readouts of each encoder that the model serves: one, except in a supernet."""
        return readouts_of(self.architecture.image_readout), readouts_of(self.architecture.text_readout)

    @property
    def _pairs(self) -> list[Pair]:
        return list(itertools.product(*self._served))

    def _projection_name(self, modality: str, readout: Readout) -> str:
        served = self._served[MODALITIES.index(modality)]
        return f"{modality}_{_PROJECTION}" if len(served) == 1 else f"{readout}_{modality}_{_PROJECTION}"

    def _classifier_name(self, pair: Pair) -> str:
        return _CLASSIFIER if len(self._pairs) == 1 else f"{'_'.join(pair)}_{_CLASSIFIER}"
