"""MBT (Nagrani et al., "Attention Bottlenecks for Multimodal Fusion", NeurIPS 2021): a few tokens between two encoders.

From a fusion layer on, each modality's layer reads its own tokens and the bottleneck tokens, and the two outputs of the
bottlenecks are averaged (equations 8 and 9). A linear classifier reads each CLS, and their logits are averaged. As in
the PMF paper's comparison (Li et al., CVPR 2023, section 4), the encoders are a ViT and a BERT, and all weights are
trained, with dropout off. MBT shares one classifier and trains it on each modality separately; encoders of different
hidden sizes need two, and the mean of their logits is trained, as in PMF. Where the hidden sizes differ, a learned
linear map per direction converts the bottlenecks.
"""

import torch
from torch import Tensor, nn

from nas.models.encoders.checkpoints import trainable_copy
from nas.models.fusion.base import PROMPT_STANDARD_DEVIATION, Features, FusionModel, classify
from nas.models.fusion.joint_attention import joint_bias, read_out
from nas.models.fusion.mbt.architecture import MBTArchitecture
from nas.search.space import Architecture


class MBT(FusionModel):
    """Both encoders with all their weights, bottleneck tokens, and a linear classifier for each modality."""

    architecture_class = MBTArchitecture

    def build(self) -> None:
        image, text = self.encoders
        self.image_encoder, self.text_encoder = trainable_copy(image), trainable_copy(text)
        widths = image.hidden_size, text.hidden_size
        count = self.architecture.value_at("bottlenecks", 0)[0]
        self.bottleneck_prompts = nn.Parameter(torch.randn(count, widths[1]) * PROMPT_STANDARD_DEVIATION)
        is_same = widths[0] == widths[1]
        self.to_image: nn.Module = nn.Identity() if is_same else nn.Linear(widths[1], widths[0])
        # With one fusing layer the outputs of the bottlenecks are never read.
        self.to_text: nn.Module = (
            nn.Identity() if is_same or self._fusing(self.architecture) < 2 else nn.Linear(*widths)
        )
        self.image_classifier = nn.Linear(widths[0], self.num_classes)
        self.text_classifier = nn.Linear(widths[1], self.num_classes)

    def forward(self, features: Features, architecture: Architecture | None = None) -> Tensor:
        architecture = architecture or self.architecture
        features = features.to_dtype_of(self.image_classifier)
        image, text, mask, whole = self.image_encoder, self.text_encoder, features.text_mask, features.whole_layers
        fusing, bottlenecks = self._fusing(architecture), architecture.value_at("bottlenecks", 0)[0]
        z, t = image.embed(features.image_tokens), text.embed(features.text_tokens)
        z_bias, t_bias = joint_bias(image, z, None, bottlenecks), joint_bias(text, t, mask, bottlenecks)
        own_bias = image.data_bias(None, z.shape[1], z.dtype), text.data_bias(mask, t.shape[1], t.dtype)
        z = image.run(z, own_bias[0], start=0, stop=image.num_layers - fusing, whole=whole)
        t = text.run(t, own_bias[1], start=0, stop=text.num_layers - fusing, whole=whole)
        shared = self.bottleneck_prompts[:bottlenecks].expand(t.shape[0], -1, -1)  # (B, M, D_txt)
        for layers_left in range(fusing, 0, -1):
            z_rows, t_rows = torch.cat([z, self.to_image(shared)], dim=1), torch.cat([t, shared], dim=1)
            if layers_left == 1:
                break
            start = image.num_layers - layers_left
            z_rows = image.run(z_rows, z_bias, start=start, stop=start + 1, whole=whole)
            start = text.num_layers - layers_left
            t_rows = text.run(t_rows, t_bias, start=start, stop=start + 1, whole=whole)
            z, t = z_rows[:, :-bottlenecks], t_rows[:, :-bottlenecks]
            shared = (self.to_text(z_rows[:, -bottlenecks:]) + t_rows[:, -bottlenecks:]) / 2
        # The outputs of the bottlenecks in the last layer are never read.
        image_read = read_out(image, z_rows, None, z_bias, start=image.num_layers - 1, count=z.shape[1], whole=whole)
        text_read = read_out(text, t_rows, mask, t_bias, start=text.num_layers - 1, count=t.shape[1], whole=whole)
        return (classify(self.image_classifier, image_read) + classify(self.text_classifier, text_read)) / 2

    def _fusing(self, architecture: Architecture) -> int:
        """Return the number of layers of each encoder that read bottlenecks."""
        return self.sizes.shallower - architecture.first_layer

    def used_parameters(self, architecture: Architecture) -> list[nn.Parameter]:
        is_read = self._fusing(architecture) > 1
        return [entry for name, entry in self.named_parameters() if is_read or not name.startswith("to_text.")]
