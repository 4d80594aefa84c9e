"""Frozen layers that a batch has to pass before a model reads it, where their outputs are not stored."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nas.common.devices import computing_in
from nas.common.precision import Precision
from nas.models.encoders.base import Encoder
from nas.models.encoders.held_weights import product_weights
from nas.search.space import RAW


@dataclass(frozen=True)
class FrozenLayers:
    """The layers of a frozen encoder between what was read and what a model reads, computed without a graph.

    Args:
        encoder: The encoder, with the weights of these layers.
        start: The layer whose input was read; `RAW` for pixel values or token ids.
        stop: The layer whose input the model reads.
    """

    encoder: Encoder
    start: int
    stop: int

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        # A worker's encoder has no weights below the first layer that it computes.
        return next(self.encoder.layers[max(self.start, 0)].module.parameters()).device

    @torch.no_grad()
    def __call__(self, inputs: Tensor, mask: Tensor | None) -> Tensor:
        """Return the input of layer `stop`, (B, R, D), with zeros in place of padding.

        Args:
            inputs: The input of layer `start`, (B, R, D), in any floating-point type; or pixel values
                (B, 3, height, width) or token ids (B, R).
            mask: (B, R), true where there is a token; None without padding.
        """
        encoder = self.encoder
        with computing_in(self._precision(), inputs.device):
            if self.start == RAW:
                rows = encoder.embed(inputs.float() if inputs.is_floating_point() else inputs)
            else:
                rows = inputs.float()
            bias = encoder.data_bias(mask, rows.shape[1], rows.dtype)
            rows = encoder.run(rows, bias, start=max(self.start, 0), stop=self.stop)
        return rows if mask is None else rows.masked_fill(~mask[:, :, None], 0)

    def _precision(self) -> Precision:
        """Return the precision in which the weights of products are held: they are computed in no other."""
        module = self.encoder.layers[max(self.start, 0)].module
        held, name, _ = next(product_weights(module))
        return "bfloat16" if getattr(held, name).dtype == torch.bfloat16 else "float32"
