"""Pretraining of VSE: the contrastive objective, on the embeddings that the classifier reads.

VSE++ itself penalizes the hardest negative of a batch by a hinge loss (Faghri et al., BMVC 2018, equation 6); here its
embeddings have the contrastive loss of all families, which weights hard negatives by their similarity.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nas.models.fusion.base import Features
from nas.models.fusion.pretraining import PretrainingModel, TokenStates
from nas.models.fusion.pretraining_heads import INITIAL_TEMPERATURE

if TYPE_CHECKING:
    from nas.models.fusion.vse.model import VSE


class VSEPretraining(PretrainingModel):
    """A VSE model with a temperature; the states of a sample are one row, the readout of its encoder.

    Args:
        model: The model whose weights are pretrained.
    """

    model: "VSE"

    def __init__(self, model: "VSE") -> None:
        super().__init__(model)
        self.log_temperature = nn.Parameter(torch.full((), math.log(INITIAL_TEMPERATURE)))

    def encode_images(self, features: Features) -> TokenStates:
        return TokenStates(self.model.read_images(features)[:, None])

    def encode_texts(self, features: Features) -> TokenStates:
        return TokenStates(self.model.read_texts(features)[:, None])

    def embed(self, images: TokenStates, texts: TokenStates) -> tuple[Tensor, Tensor]:
        return self.model.embeddings(images.rows[:, 0], texts.rows[:, 0], self.model.architecture.joint_width)

    @property
    def temperature(self) -> Tensor:
        return self.log_temperature.exp()
