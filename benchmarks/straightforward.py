"""The straightforward side of the measurements: PMF's reference, with the layers of the transformers library.

A fair opponent: SDPA attention, base layers without a graph, no gradients of frozen weights.
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from nas.models.encoders.base import Encoder
from nas.models.encoders.layers import EncoderLayer
from nas.models.fusion.joint_attention import joint_bias
from nas.models.fusion.pmf.model import PMF
from nas.models.fusion.pmf.reference import fuse_whole, reference_logits


class StraightforwardPMF(nn.Module):
    """Computes logits from raw inputs with the encoders and trained tensors of a PMF model of ViT and BERT.

    Args:
        model: The PMF model.
    """

    def __init__(self, model: PMF) -> None:
        super().__init__()
        self.pmf = model

    def forward(self, pixel_values: Tensor, input_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Return the logits (B, C) of pixel values (B, 3, height, width), token ids and an optional mask (B, T)."""
        return reference_logits(self.pmf, pixel_values, input_ids, mask, _run_module)

    def from_features(self, image_tokens: Tensor, text_tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Return the logits (B, C) of base features (B, S, D_img) and (B, T, D_txt), see `base_features`."""
        model = self.pmf
        image, text = fuse_whole(
            model.encoders,
            model.layer_weights(model.architecture),
            (image_tokens, text_tokens),
            mask,
            lambda encoder, index, tokens, bias: _run_module(encoder.layers[index], tokens, bias),
            model.architecture.readouts,
        )
        logits: Tensor = (model.image_classifier(image) + model.text_classifier(text)) / 2
        return logits


@torch.no_grad()
def base_features(encoder: Encoder, inputs: Tensor, mask: Tensor | None, layers: Collection[int]) -> dict[int, Tensor]:
    """Return the inputs of some layers of an encoder that runs alone, (B, R, D) by the index of the layer.

    Args:
        encoder: The encoder.
        inputs: Pixel values (B, 3, height, width) or token ids (B, R).
        mask: (B, R), true where there is a token; None where no text is padded.
        layers: The indices of the layers.
    """
    tokens, found = encoder.embed(inputs), {}
    for index in range(max(layers) + 1):
        if index in layers:
            found[index] = tokens
        if index < max(layers):
            tokens = _run_module(encoder.layers[index], tokens, joint_bias(encoder, tokens, mask, further=0))
    return found


def frozen_parameters(encoders: tuple[Encoder, Encoder]) -> list[nn.Parameter]:
    """Return all weights of both encoders."""
    return [parameter for encoder in encoders for parameter in encoder.parameters()]


def _run_module(layer: EncoderLayer, tokens: Tensor, bias: Tensor | None) -> Tensor:
    """Run a layer of transformers, which expects a bias of all tokens over all tokens, (B, 1, R, R)."""
    output: Tensor = layer.module(tokens, None if bias is None else bias.expand(-1, -1, tokens.shape[1], -1))
    return output
