"""PMF as one would write it down: two whole passes of every fusing layer a modality, nothing cached.

The other side of the measurements, and a fair one: the layers are the transformers library's own with SDPA, base layers
run without a graph, frozen weights get no gradients. Trained tensors are those of a `PMF`.
"""

import torch
from torch import Tensor, nn

from nas.models.encoders.base import Encoder
from nas.models.fusion.pmf.model import PMF, Direction, FusionLayer


class StraightforwardPMF(nn.Module):
    """Raw inputs in, logits out; shares encoders and trained tensors with a `PMF` of ViT and BERT.

    Args:
        model: Whose encoders and weights.
    """

    def __init__(self, model: PMF) -> None:
        super().__init__()
        self.pmf = model
        image, text = model.encoders
        self.encoders = (image, text)
        self.fusing = min(image.num_layers, text.num_layers) - model.architecture.fusion_layer

    def base(self, pixel_values: Tensor, input_ids: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """z and t at the first fusing layer."""
        image, text = self.encoders
        with torch.no_grad():
            z, t = image.embed(pixel_values), text.embed(input_ids)
            for layer in image.layers[: image.num_layers - self.fusing]:
                z = layer.module(z)
            for layer in text.layers[: text.num_layers - self.fusing]:
                t = layer.module(t, bias)
        return z, t

    def forward(self, pixel_values: Tensor, input_ids: Tensor, mask: Tensor | None) -> Tensor:
        """(B, 3, height, width), (B, T) and (B, T) or None → (B, C)."""
        image, text = self.encoders
        z, t = self.base(pixel_values, input_ids, _bias(mask, 0))
        for index, weights in enumerate(self.pmf.fusion_layers):
            assert isinstance(weights, FusionLayer)
            image_layer = image.layers[image.num_layers - self.fusing + index].module
            text_layer = text.layers[text.num_layers - self.fusing + index].module
            to_text, to_image = weights.image_to_text, weights.text_to_image
            told_text = _map(to_text, image_layer(_append(z, *_query(to_text))))
            rows = _append(t, *_query(to_image))
            told_image = _map(to_image, text_layer(rows, _bias(mask, rows.shape[1] - t.shape[1])))
            z_rows = _append(z, to_image.fusion_context_prompts, told_image)
            t_rows = _append(t, to_text.fusion_context_prompts, told_text)
            z = image_layer(z_rows)[:, : z.shape[1]]
            t = text_layer(t_rows, _bias(mask, t_rows.shape[1] - t.shape[1]))[:, : t.shape[1]]
        image_logits = self.pmf.image_classifier(image.pool(image.finish(z)))
        text_logits = self.pmf.text_classifier(text.pool(text.finish(t)))
        logits: Tensor = (image_logits + text_logits) / 2
        return logits


def frozen_parameters(encoders: tuple[Encoder, Encoder]) -> list[nn.Parameter]:
    """All weights of both encoders."""
    return [parameter for encoder in encoders for parameter in encoder.parameters()]


def _query(direction: Direction) -> tuple[Tensor, Tensor]:
    return direction.query_context_prompts, direction.query_prompts


def _append(data: Tensor, *prompts: Tensor) -> Tensor:
    size = len(data)
    return torch.cat([data, *(rows if rows.dim() == 3 else rows.expand(size, -1, -1) for rows in prompts)], dim=1)


def _map(direction: Direction, rows: Tensor) -> Tensor:
    kept = rows[:, rows.shape[1] - direction.query_prompts.shape[0] :]
    mapped: Tensor = direction.outer(torch.relu(direction.inner(kept)))
    return mapped


def _bias(mask: Tensor | None, prompts: int) -> Tensor | None:
    """Additive, over all keys: padding is hidden, prompts are seen by all; (B, 1, R, R), as the library makes it."""
    if mask is None:
        return None
    seen = torch.cat([mask, mask.new_ones(len(mask), prompts)], dim=1)[:, None, None, :]
    bias = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    return bias.expand(-1, -1, seen.shape[-1], -1)
