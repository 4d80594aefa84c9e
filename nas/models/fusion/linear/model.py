"""The simplest fusion: a linear classifier on the concatenated CLS tokens of both frozen encoders.

The PMF paper's "Linear" (Li et al., CVPR 2023, table 1).
"""

import torch
from torch import Tensor, nn

from nas.models.fusion.base import Features, FusionModel
from nas.models.fusion.linear.architecture import LinearArchitecture
from nas.search.space import Architecture


class Linear(FusionModel):
    """A linear classifier; everything else is a constant of the data set."""

    architecture_class = LinearArchitecture

    def build(self) -> None:
        image, text = self.encoders
        self.classifier = nn.Linear(image.hidden_size + text.hidden_size, self.num_classes)

    def forward(self, features: Features, architecture: Architecture | None = None) -> Tensor:
        del architecture  # the family has only one
        features = features.to_dtype_of(self.classifier)
        masks = (None, features.text_mask)
        read = [
            encoder.pool(encoder.finish(encoder.readout_rows(rows, mask)))
            for encoder, rows, mask in zip(
                self.encoders, (features.image_tokens, features.text_tokens), masks, strict=True
            )
        ]
        logits: Tensor = self.classifier(torch.cat(read, dim=1))
        return logits
