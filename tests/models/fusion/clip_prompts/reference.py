"""MaPLe as its paper defines it, without a shortcut: whole layers of transformers' CLIP on whole sequences.

One text and one picture at a time, without padding. Only the values of the trained tensors are those of a model.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from nas.models.class_texts import ClassTexts


def maple_logits(model: Any, vision: Any, text: Any, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """Return the logits, (B, C), of a standalone model of the family `maple` or `vpt_clip`."""
    chosen, texts = model.architecture, model.class_texts
    branches = chosen.texts().get("branches", "vision")
    text_prompts = list(model.text_prompts) if branches != "vision" else []
    if branches == "coupled":
        mappings = list(model.coupling)
        image_prompts = [
            mappings[0 if chosen.texts()["coupling"] == "shared" else layer](prompts)
            for layer, prompts in enumerate(text_prompts)
        ]
    else:
        image_prompts = list(model.image_prompts) if branches != "language" else []
    # Without prompts in the text encoder, the embeddings under all templates are averaged; else there is one template.
    templates = 1 if text_prompts else len(texts.prefixes)
    keeps_words = chosen.texts().get("initial_text") == "template"
    classes = torch.stack(
        [
            normalize(
                torch.stack(
                    [
                        _text(text, text_prompts, *_class_text(texts, template, name), keeps_words=keeps_words)
                        for template in range(templates)
                    ]
                ).mean(dim=0),
                dim=0,
            )
            for name in range(texts.num_classes)
        ]
    )
    samples = torch.stack([_image(vision, image_prompts, picture) for picture in pixels])
    scale: float = text.config.contrastive["logit_scale"]
    logits: Tensor = scale * samples @ classes.T
    if chosen.texts()["sample_text"] == "sum":
        own = torch.stack([_text(text, [], row[seen].tolist(), 0) for row, seen in zip(ids, mask, strict=True)])
        logits = logits + model.text_weight * (scale * own @ classes.T)
    return logits


def _class_text(texts: ClassTexts, template: int, name: int) -> tuple[list[int], int]:
    """Return the token ids of a text, and the number of words before the name of the class."""
    return texts.ids[template, name][texts.mask[template, name]].tolist(), texts.prefixes[template]


def _text(text: Any, prompts: list[Tensor], ids: list[int], words: int, *, keeps_words: bool = True) -> Tensor:
    """Return the embedding of one text, (E,), of unit length."""
    vectors = text.embeddings.token_embedding(torch.tensor(ids))
    if prompts:
        length = len(prompts[0])
        rest = vectors[1 + length :] if keeps_words and length <= words else vectors[1 + words :]
        vectors = torch.cat([vectors[:1], prompts[0], rest])
    rows = (vectors + text.embeddings.position_embedding.weight[: len(vectors)])[None]
    causal = torch.full((rows.shape[1], rows.shape[1]), float("-inf"), dtype=rows.dtype).triu(1)[None, None]
    for index, layer in enumerate(text.encoder.layers):
        if 0 < index < len(prompts):
            rows = torch.cat([rows[:, :1], prompts[index][None], rows[:, 1 + len(prompts[index]) :]], dim=1)
        rows = _first(layer(rows, causal))
    return normalize(text.contrastive_projection(text.final_layer_norm(rows[0, -1])), dim=0)


def _image(vision: Any, prompts: list[Tensor], pixels: Tensor) -> Tensor:
    """Return the embedding of one picture, (E,), of unit length."""
    rows = vision.embeddings(pixels[None])
    count = rows.shape[1]
    if prompts:
        rows = torch.cat([rows, prompts[0][None]], dim=1)
    rows = vision.pre_layrnorm(rows)
    for index, layer in enumerate(vision.encoder.layers):
        if 0 < index < len(prompts):
            rows = torch.cat([rows[:, :count], prompts[index][None]], dim=1)
        rows = _first(layer(rows, None))
    return normalize(vision.contrastive_projection(vision.post_layernorm(rows[0, 0])), dim=0)


def _first(output: Any) -> Tensor:
    rows: Tensor = output[0] if isinstance(output, tuple) else output
    return rows
