"""Late fusion: both encoders fine-tuned, and a linear classifier on their concatenated CLS tokens.

The PMF paper's "LateConcat" (Li et al., CVPR 2023, table 1); dropout is off, as in all families here.
"""

import torch
from torch import Tensor, nn

from nas.models.encoders.checkpoints import trainable_copy
from nas.models.fusion.base import Features, FusionModel, classify
from nas.models.fusion.joint_attention import encoded
from nas.models.fusion.late_concat.architecture import LateConcatArchitecture
from nas.search.space import Architecture


class LateConcat(FusionModel):
    """Both encoders with all their weights, and a linear classifier."""

    architecture_class = LateConcatArchitecture

    def build(self) -> None:
        image, text = self.encoders
        self.image_encoder, self.text_encoder = trainable_copy(image), trainable_copy(text)
        self.classifier = nn.Linear(image.hidden_size + text.hidden_size, self.num_classes)

    def forward(self, features: Features, architecture: Architecture | None = None) -> Tensor:
        del architecture  # the family has only one
        features = features.to_dtype_of(self.classifier)
        image = encoded(self.image_encoder, features.image_tokens, None, whole=features.whole_layers)
        text = encoded(self.text_encoder, features.text_tokens, features.text_mask, whole=features.whole_layers)
        return classify(self.classifier, torch.cat([image, text], dim=1))
