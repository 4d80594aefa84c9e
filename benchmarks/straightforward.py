"""The straightforward side of the measurements: PMF's reference, with the layers of the transformers library.

A fair opponent: SDPA attention, base layers without a graph, no gradients of frozen weights.
"""

from torch import Tensor, nn

from nas.models.encoders.base import Encoder
from nas.models.encoders.layers import EncoderLayer
from nas.models.fusion.pmf.model import PMF
from nas.models.fusion.pmf.reference import reference_logits


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


def frozen_parameters(encoders: tuple[Encoder, Encoder]) -> list[nn.Parameter]:
    """Return all weights of both encoders."""
    return [parameter for encoder in encoders for parameter in encoder.parameters()]


def _run_module(layer: EncoderLayer, tokens: Tensor, bias: Tensor | None) -> Tensor:
    """Run a layer of transformers, which expects a bias of all tokens over all tokens, (B, 1, R, R)."""
    output: Tensor = layer.module(tokens, None if bias is None else bias.expand(-1, -1, tokens.shape[1], -1))
    return output
