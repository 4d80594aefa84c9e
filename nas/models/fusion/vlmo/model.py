"""VLMo (Bao et al., "VLMo: Unified Vision-Language Pre-Training with Mixture-of-Modality-Experts").

NeurIPS 2022, arXiv 2111.02358: one pre-norm transformer reads image and text together. All tokens share the
self-attention; the feed-forward block with its norm is that of an expert: in the lower layers V for the tokens of the
image and L for those of the text, in the upper ones VL for all. The classifier reads the text's CLS after the final
norm.

The transformer is the image encoder: its attention is shared, its feed-forward blocks are V below and VL above, and L
starts as a copy of V. (The published code leaves VL and L random before the pretraining, for which there is not enough
data here.) Words come from the embeddings of the text encoder, whose layers are not used, through a linear map where
the hidden sizes differ; the paper learns them from scratch. As there, each modality has a learned embedding. What also
differs: absolute positions, as in the image encoder, not relative ones; no pooler before the classifier, which is
linear; dropout is off, as in all families here. V and L experts of the upper layers, which only read one modality
alone, would not be read by the classifier, and do not exist.

The gene is the number of lower layers. A supernet has an L expert for each layer below its own; a slice uses the lowest
ones, so that V and VL of a layer are one block of weights.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from nas.models.encoders.base import Encoder, padding_bias
from nas.models.encoders.checkpoints import trainable_copy, trainable_embedding
from nas.models.encoders.split_layers import feed_forward_copy, halves_of, run_split
from nas.models.fusion.base import PROMPT_STANDARD_DEVIATION, Features, FusionModel, classify
from nas.models.fusion.joint_attention import joint_bias
from nas.models.fusion.vlmo.architecture import VLMoArchitecture
from nas.models.fusion.vlmo.pretraining import VLMoPretraining
from nas.search.space import Architecture

_EXPERTS = "language_experts"


class VLMo(FusionModel):
    """The image encoder with all its weights and experts, the text's embeddings, and a linear classifier."""

    architecture_class = VLMoArchitecture

    def build(self) -> None:
        image, text = self.encoders
        self.image_encoder = trainable_copy(image, is_pooled=False)
        # Within the encoder, whose learning rate is theirs: they start from its weights.
        count = _modality_layers(self.architecture)
        self.image_encoder.add_module(
            _EXPERTS, nn.ModuleList(feed_forward_copy(self.image_encoder, index) for index in range(count))
        )
        self.text_encoder = trainable_embedding(text)
        is_same = image.hidden_size == text.hidden_size
        self.projection: nn.Module = nn.Identity() if is_same else nn.Linear(text.hidden_size, image.hidden_size)
        self.segments = nn.Parameter(torch.randn(2, image.hidden_size) * PROMPT_STANDARD_DEVIATION)
        self.classifier = nn.Linear(image.hidden_size, self.num_classes)
        halves_of(image, image.num_layers - 1)  # an error here rather than in the first step

    def forward(self, features: Features, architecture: Architecture | None = None) -> Tensor:
        lower = _modality_layers(architecture or self.architecture)
        features = features.to_dtype_of(self.classifier)
        mask, whole = features.text_mask, features.whole_layers
        z, t = self.image_embeddings(features), self.text_embeddings(features)
        rows = self.joint(z, t, mask, lower=lower, whole=whole, all_tokens=whole)
        read = self.text_encoder.readout_rows(rows, mask) if whole else rows
        return classify(self.classifier, self.image_encoder.finish(read)[:, 0])

    def image_embeddings(self, features: Features) -> Tensor:
        """Return the image tokens as input of the first layer, (B, S, D_img).

        Args:
            features: The inputs.
        """
        return self.image_encoder.embed(features.image_tokens) + self.segments[0]

    def text_embeddings(self, features: Features) -> Tensor:
        """Return the text tokens as input of the first layer, (B, T, D_img).

        Args:
            features: The inputs.
        """
        embeddings: Tensor = self.projection(self.text_encoder.embed(features.text_tokens))
        return embeddings + self.segments[1]

    def joint(self, z: Tensor, t: Tensor, mask: Tensor | None, *, lower: int, whole: bool, all_tokens: bool) -> Tensor:
        """Run all layers over both modalities, and return the text token that the head reads, (B, 1, D_img), or all.

        Args:
            z: The image tokens, (B, S, D_img).
            t: The text tokens, (B, T, D_img).
            mask: (B, T), true where there is a token of the text; None where nothing is padded.
            lower: The number of layers with an expert for each modality.
            whole: Whether to call the parts of the layers of transformers (`Features.whole_layers`), of all tokens.
            all_tokens: Whether to return all tokens of the text, (B, T, D_img); required with `whole`.
        """
        image, text = self.image_encoder, self.text_encoder
        rows, count, last = torch.cat([z, t], dim=1), z.shape[1], image.num_layers - 1
        bias = _joint_bias(image, z, t, mask)
        for index in range(last + 1):
            wanted = None
            if index == last and not whole:  # other outputs are never read
                own, own_bias = rows[:, count:], bias if bias is None or bias.shape[2] == 1 else bias[:, :, count:]
                if not all_tokens:
                    own, own_bias = text.readout_rows(own, mask), text.readout_bias(own_bias, mask)
                wanted = own, own_bias
            feed_forward = halves_of(image, index).feed_forward
            rest = feed_forward if index >= lower else partial(_separate, feed_forward, self.experts[index], count)
            rows = run_split(image, index, rows, bias, rest, whole=whole, wanted=wanted)
        return rows[:, count:] if whole else rows

    @property
    def experts(self) -> nn.ModuleList:
        """The L experts of the lower layers."""
        return cast(nn.ModuleList, self.image_encoder.get_submodule(_EXPERTS))

    def pretraining_model(self) -> VLMoPretraining:
        """Return this model, whose weights are shared, with new heads for its objectives."""
        return VLMoPretraining(self)

    def used_parameters(self, architecture: Architecture) -> list[nn.Parameter]:
        experts = list(self.experts)[_modality_layers(architecture) :]
        unused = {id(entry) for expert in experts for entry in expert.parameters()}
        return [entry for entry in self.parameters() if id(entry) not in unused]


def _separate(
    feed_forward: Callable[[Any, Tensor], Tensor], expert: nn.Module, count: int, layer: Any, rows: Tensor
) -> Tensor:
    """Apply expert V, the block of the layer itself, to the image tokens, and expert L to those of the text."""
    return torch.cat([feed_forward(layer, rows[:, :count]), feed_forward(expert, rows[:, count:])], dim=1)


def _modality_layers(architecture: Architecture) -> int:
    return cast(VLMoArchitecture, architecture).modality_layers


def _joint_bias(image: Encoder, z: Tensor, t: Tensor, mask: Tensor | None) -> Tensor | None:
    """Return the bias over image tokens, then text tokens, which hides the padding of the text."""
    own = joint_bias(image, z, None, further=t.shape[1])
    if mask is None:
        return own
    padding = pad(padding_bias(mask, z.dtype), (z.shape[1], 0))
    return padding if own is None else own + padding
