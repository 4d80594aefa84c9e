"""The simplest fusion: a linear classifier on what is read out of both frozen encoders.

With the CLS tokens it is the PMF paper's "Linear" (Li et al., CVPR 2023, table 1). One classifier on both readouts and
the mean of one classifier on each are the same functions.
"""

import itertools
from typing import cast

import torch
from torch import Tensor, nn

from nas.models.fusion.base import Features, FusionModel, classify, read_out
from nas.models.fusion.linear.architecture import LinearArchitecture
from nas.models.fusion.readouts import Readout, readouts_of
from nas.search.space import Architecture

_CLASSIFIER = "classifier"


class Linear(FusionModel):
    """A linear classifier, or one for each pair of readouts; everything else is a constant of the data set."""

    architecture_class = LinearArchitecture
    architecture: LinearArchitecture
    classifier: nn.Linear
    """The classifier of a model that is no supernet."""

    def build(self) -> None:
        image, text = self.encoders
        for pair in self._pairs:
            self.add_module(self._name(pair), nn.Linear(image.hidden_size + text.hidden_size, self.num_classes))

    def forward(self, features: Features, architecture: Architecture | None = None) -> Tensor:
        pair = self._readouts(architecture or self.architecture)
        classifier = self._classifier(pair)
        features = features.to_dtype_of(classifier)
        tokens, masks = (features.image_tokens, features.text_tokens), (None, features.text_mask)
        read = [read_out(*given) for given in zip(self.encoders, tokens, masks, pair, strict=True)]
        return classify(classifier, torch.cat(read, dim=1))

    def used_parameters(self, architecture: Architecture) -> list[nn.Parameter]:
        return list(self._classifier(self._readouts(architecture)).parameters())

    def source_of(self, name: str, architecture: Architecture) -> str:
        return name.replace(_CLASSIFIER, self._name(self._readouts(architecture)))

    @staticmethod
    def _readouts(architecture: Architecture) -> tuple[Readout, Readout]:
        assert isinstance(architecture, LinearArchitecture)
        return architecture.readouts

    @property
    def _pairs(self) -> list[tuple[Readout, Readout]]:
        """The pairs of readouts that the model serves: one, except in a supernet."""
        image, text = readouts_of(self.architecture.image_readout), readouts_of(self.architecture.text_readout)
        return list(itertools.product(image, text))

    def _name(self, pair: tuple[Readout, Readout]) -> str:
        return _CLASSIFIER if len(self._pairs) == 1 else f"{'_'.join(pair)}_{_CLASSIFIER}"

    def _classifier(self, pair: tuple[Readout, Readout]) -> nn.Linear:
        return cast(nn.Linear, self.get_submodule(self._name(pair)))
