"""MMBT (Kiela et al., "Supervised Multimodal Bitransformers", 2019, arXiv 1909.02950): the image as words of the text.

As reimplemented in the PMF paper (Li et al., CVPR 2023, section 4): a ViT replaces the ResNet, and its tokens are
projected and read by the text transformer together with the text; all weights are trained. As in MMBT, the projected
tokens get a learned segment embedding and pass the LayerNorm of the text embeddings, where there is one. They get no
position, because the ViT has encoded theirs, and follow the text. The classifier reads CLS without BERT's pooler.
Dropout is off, as in all families here.
"""

import torch
from torch import Tensor, nn

from nas.models.encoders.checkpoints import trainable_copy
from nas.models.fusion.base import PROMPT_STANDARD_DEVIATION, Features, FusionModel, classify
from nas.models.fusion.joint_attention import read_out_with
from nas.models.fusion.mmbt.architecture import MMBTArchitecture
from nas.search.space import Architecture


class MMBT(FusionModel):
    """Both encoders with all their weights, a projection between them, and a linear classifier on the text's CLS."""

    architecture_class = MMBTArchitecture

    def build(self) -> None:
        image, text = self.encoders
        self.image_encoder, self.text_encoder = trainable_copy(image, is_pooled=False), trainable_copy(text)
        self.projection = nn.Linear(image.hidden_size, text.hidden_size)
        self.segment = nn.Parameter(torch.randn(text.hidden_size) * PROMPT_STANDARD_DEVIATION)
        self.classifier = nn.Linear(text.hidden_size, self.num_classes)

    def forward(self, features: Features, architecture: Architecture | None = None) -> Tensor:
        del architecture  # the family has only one
        features = features.to_dtype_of(self.classifier)
        image, text, mask, whole = self.image_encoder, self.text_encoder, features.text_mask, features.whole_layers
        z = image.embed(features.image_tokens)
        z = image.run(z, image.data_bias(None, z.shape[1], z.dtype), start=0, stop=image.num_layers, whole=whole)
        z = text.as_embeddings(self.projection(image.finish(z)) + self.segment)  # (B, S, D_txt)
        t = text.embed(features.text_tokens)
        return classify(self.classifier, read_out_with(text, t, mask, [z], start=0, whole=whole))
