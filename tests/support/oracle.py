"""PMF read straight from the paper: every fusing layer runs whole, twice per modality, by Hugging Face's own layer.

Nothing is shared with `nas.models.fusion.pmf.model` but the values of the trained tensors.
"""

import torch
from torch import Tensor
from transformers import BertModel, ViTModel

from nas.models.fusion.pmf.model import PMF


def full_mask(mask: Tensor, prompts: int, dtype: torch.dtype) -> Tensor:
    visible = torch.cat([mask, mask.new_ones(mask.shape[0], prompts)], dim=1)
    rows = visible.shape[1]
    return torch.zeros(len(mask), 1, rows, rows, dtype=dtype).masked_fill(~visible[:, None, None, :], float("-inf"))


def whole_layer(layer: torch.nn.Module, data: Tensor, mask: Tensor, prompts: Tensor) -> Tensor:
    output = layer(torch.cat([data, prompts], dim=1), full_mask(mask, prompts.shape[1], data.dtype))
    return output[0] if isinstance(output, tuple) else output


def mapped(direction: torch.nn.Module, rows: Tensor) -> Tensor:
    return direction.outer(torch.relu(direction.inner(rows)))


def logits(model: PMF, vit: ViTModel, bert: BertModel, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    n = min(len(vit.layers), len(bert.encoder.layer)) - model.architecture.fusion_layer
    image_mask = torch.ones(len(pixels), vit.config.image_size**2 // vit.config.patch_size**2 + 1, dtype=torch.bool)
    z, t = vit.embeddings(pixels), bert.embeddings(ids)
    for layer in vit.layers[: len(vit.layers) - n]:
        z = whole_layer(layer, z, image_mask, z[:, :0])
    for layer in bert.encoder.layer[: len(bert.encoder.layer) - n]:
        t = whole_layer(layer, t, mask, t[:, :0])

    for index in range(n):
        image_layer = vit.layers[len(vit.layers) - n + index]
        text_layer = bert.encoder.layer[len(bert.encoder.layer) - n + index]
        to_text, to_image = model.fusion_layers[index].image_to_text, model.fusion_layers[index].text_to_image

        def repeated(prompts: Tensor) -> Tensor:
            return prompts[None].repeat(len(pixels), 1, 1)

        image_query = torch.cat([repeated(to_text.query_context_prompts), repeated(to_text.query_prompts)], dim=1)
        text_query = torch.cat([repeated(to_image.query_context_prompts), repeated(to_image.query_prompts)], dim=1)
        from_image = mapped(
            to_text, whole_layer(image_layer, z, image_mask, image_query)[:, -to_text.query_prompts.shape[0] :]
        )
        from_text = mapped(
            to_image, whole_layer(text_layer, t, mask, text_query)[:, -to_image.query_prompts.shape[0] :]
        )
        next_t = whole_layer(
            text_layer, t, mask, torch.cat([repeated(to_text.fusion_context_prompts), from_image], dim=1)
        )
        next_z = whole_layer(
            image_layer, z, image_mask, torch.cat([repeated(to_image.fusion_context_prompts), from_text], dim=1)
        )
        z, t = next_z[:, : z.shape[1]], next_t[:, : t.shape[1]]

    image_cls = vit.layernorm(z)[:, 0]
    return (model.image_classifier(image_cls) + model.text_classifier(t[:, 0])) / 2
