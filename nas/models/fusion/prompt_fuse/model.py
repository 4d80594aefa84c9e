"""PromptFuse (Liang et al., "Modular and Parameter-Efficient Multimodal Fusion with Prompting", Findings of ACL 2022).

The frozen text transformer reads the text, the tokens of the frozen image encoder, and a few learned prompts; a linear
classifier reads its CLS. As in the PMF paper's comparison (Li et al., CVPR 2023, section 4), the encoders are a ViT
and a BERT of the same hidden size, with 20 prompts; where the hidden sizes differ, a learned linear map converts the
image tokens. Image tokens and prompts enter the first layer without position, segment or the LayerNorm of embeddings.
"""

import torch
from torch import Tensor, nn

from nas.models.fusion.base import PROMPT_STANDARD_DEVIATION, Features, FusionModel, classify
from nas.models.fusion.joint_attention import read_out_with
from nas.models.fusion.prompt_fuse.architecture import PromptFuseArchitecture
from nas.search.space import Architecture


class PromptFuse(FusionModel):
    """Prompts, and a linear classifier on the text's CLS."""

    architecture_class = PromptFuseArchitecture

    def build(self) -> None:
        image, text = self.encoders
        count = self.architecture.value_at("prompts", 0)[0]
        self.prompts = nn.Parameter(torch.randn(count, text.hidden_size) * PROMPT_STANDARD_DEVIATION)
        is_same = image.hidden_size == text.hidden_size
        self.projection: nn.Module = nn.Identity() if is_same else nn.Linear(image.hidden_size, text.hidden_size)
        self.classifier = nn.Linear(text.hidden_size, self.num_classes)

    def forward(self, features: Features, architecture: Architecture | None = None) -> Tensor:
        architecture = architecture or self.architecture
        prompts = self.prompts[: architecture.value_at("prompts", 0)[0]]
        features = features.to_dtype_of(self.classifier)
        image = self.projection(self.encoders[0].finish(features.image_tokens))  # (B, S, D_txt)
        return classify(self.classifier, self._read(features, image, prompts))

    def _read(self, features: Features, image: Tensor, prompts: Tensor) -> Tensor:
        """Return the input of the classifier, (B, D_txt), given the projected image tokens."""
        text, mask, further = features.text_tokens, features.text_mask, [image, prompts.expand(image.shape[0], -1, -1)]
        return read_out_with(self.encoders[1], text, mask, further, start=0, whole=features.whole_layers)
