"""The contract of every fusion family: its logits, trained parameters and memory, and its export.

The logits are compared with an implementation that follows the family's paper literally and calls the layers of
`transformers` one by one; only the values of the trained tensors are shared. PMF uses its own reference, which is
compared with layers of `transformers` in `pmf/test_encoder_families.py`.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, multi_head_attention_forward

from nas.common.devices import product_dtype
from nas.common.precision import Precision
from nas.config.data_schema import FeaturesConfig
from nas.data.features.store import Batch
from nas.memory.prediction import MemoryModel
from nas.memory.step_tracing import TaskShapes
from nas.memory.tracker import PeakTracker
from nas.models.classifier import FusionForClassification
from nas.models.encoders.base import Encoder
from nas.models.encoders.held_weights import hold_products_in
from nas.models.fusion.albef.architecture import ALBEFArchitecture
from nas.models.fusion.base import Features, FusionModel, features_of, sizes_of
from nas.models.fusion.bilinear.architecture import BilinearArchitecture
from nas.models.fusion.blind_prompt.architecture import BlindPromptArchitecture
from nas.models.fusion.clip_zero_shot.architecture import CLIPZeroShotArchitecture
from nas.models.fusion.coop.architecture import CoOpArchitecture
from nas.models.fusion.joint_attention import joint_bias
from nas.models.fusion.linear.architecture import LinearArchitecture
from nas.models.fusion.maple.architecture import MaPLeArchitecture
from nas.models.fusion.mbt.architecture import MBTArchitecture
from nas.models.fusion.model_classes import load_model_class
from nas.models.fusion.p_bert.architecture import PBERTArchitecture
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.models.fusion.pmf.reference import reference_logits
from nas.models.fusion.prompt_fuse.architecture import PromptFuseArchitecture
from nas.models.fusion.supernet import build_model, build_supernet, extract
from nas.models.fusion.uniter.architecture import UNITERArchitecture
from nas.models.fusion.vilbert.architecture import ViLBERTArchitecture
from nas.models.fusion.vilt.architecture import ViLTArchitecture
from nas.models.fusion.vlmo.architecture import VLMoArchitecture
from nas.models.fusion.vpt.architecture import VPTArchitecture
from nas.models.fusion.vpt_clip.architecture import VPTCLIPArchitecture
from nas.models.fusion.vse.architecture import VSEArchitecture
from nas.run.export import assemble
from nas.search.space import RAW, Architecture, EncoderSizes, EntryLayers, SearchSpace
from nas.search.space.family_registry import FAMILIES, load_architecture_class
from nas.training.losses import Loss
from nas.training.trainer import Trainer
from tests.models.fusion.clip_prompts.reference import maple_logits
from tests.support.tiny import raw_batch
from tests.support.tiny_clip import COMMON_SIZE, SCALE, pair_for, reads_class_texts, texts_for
from tests.support.tiny_families import ALL_FAMILIES, TEXT_FAMILIES, TinyFamily
from tests.support.tiny_memory import RECIPE

CLASSES = 5
SPACES: dict[str, SearchSpace] = {
    "pmf": SearchSpace(
        PMFArchitecture,
        {
            "fusion_layer": (0, 1, 2),
            "query_prompts": (1, 2, 5),
            "query_context_prompts": (0, 2),
            "fusion_context_prompts": (0, 3),
            "mapping_width": (4, 8),
            "image_readout": (0, 1),
            "text_readout": (0, 1),
        },
    ),
    "mbt": SearchSpace(MBTArchitecture, {"fusion_layer": (0, 1, 2), "bottlenecks": (1, 2, 4)}),
    "linear": SearchSpace(LinearArchitecture, {"image_readout": (0, 1), "text_readout": (0, 1)}),
    "bilinear": SearchSpace(
        BilinearArchitecture, {"components": (1, 2, 5), "image_readout": (0, 1), "text_readout": (0, 1)}
    ),
    "vpt": SearchSpace(VPTArchitecture, {"prompt_layer": (0, 1, 3), "prompts": (1, 2, 5)}, {"prompts": "layer"}, 4),
    "p_bert": SearchSpace(PBERTArchitecture, {"prompt_layer": (0, 2), "prompts": (1, 4)}, {"prompts": "layer"}, 3),
    "prompt_fuse": SearchSpace(PromptFuseArchitecture, {"prompts": (1, 3, 20)}),
    "blind_prompt": SearchSpace(BlindPromptArchitecture, {"prompts": (1, 3, 20)}),
    "clip_zero_shot": SearchSpace(CLIPZeroShotArchitecture, {"sample_text": (0, 1)}),
    "vpt_clip": SearchSpace(
        VPTCLIPArchitecture, {"prompt_depth": (1, 2, 4), "prompt_length": (1, 2, 5), "sample_text": (0, 1)}
    ),
    "maple": SearchSpace(
        MaPLeArchitecture,
        {
            "prompt_depth": (1, 2, 3),
            "prompt_length": (1, 2, 5),
            "branches": (0, 1, 2, 3),
            "coupling": (0, 1),
            "initial_text": (0, 1),
            "sample_text": (0, 1),
        },
    ),
    "coop": SearchSpace(CoOpArchitecture, {"prompt_length": (1, 2, 5), "initial_text": (0, 1), "sample_text": (0, 1)}),
    "albef": SearchSpace(ALBEFArchitecture, {"fusion_layer": (0, 1, 2)}),
    "vlmo": SearchSpace(VLMoArchitecture, {"modality_layers": (0, 1, 3)}),
    "vse": SearchSpace(VSEArchitecture, {"joint_width": (2, 7, 24)}),
    "vilbert": SearchSpace(ViLBERTArchitecture, {"coattention_layer": (0, 1, 2), "coattentions": (1, 2, 3)}),
    "uniter": SearchSpace(UNITERArchitecture, {"fusion_layer": (0, 1, 2)}),
    "vilt": SearchSpace(ViLTArchitecture, {"depth": (1, 3, 4)}),
}
"""Spaces of the families with genes; the others have one architecture."""

every_family = pytest.mark.parametrize("family", FAMILIES)


def space_of(family: str) -> SearchSpace:
    return SPACES.get(family) or SearchSpace(load_architecture_class(family), {})


def middling(family: str) -> Architecture:
    """Return an architecture between the smallest and the largest, if there is one."""
    architectures = list(space_of(family))
    return architectures[len(architectures) // 2]


def fresh(
    family: str, architecture: Architecture | None = None, pair: tuple[Encoder, Encoder] | None = None
) -> FusionModel:
    image, text = pair or pair_for(family)
    model = build_model(
        image_encoder=image,
        text_encoder=text,
        architecture=architecture or middling(family),
        num_classes=CLASSES,
        seed=0,
        class_texts=texts_for(family),
    )
    return model.to(next(image.parameters()).dtype)


def logits_of(model: FusionModel, pixels: Tensor, ids: Tensor, mask: Tensor | None) -> Tensor:
    logits: Tensor = model(features_of(model.encoders, model.entry_layers(), pixels, ids, mask))
    return logits


def reads_images(family: str) -> bool:
    return middling(family).entry_layers(EncoderSizes(4, 3, 24, 16)).image is not None


def reads_texts(family: str) -> bool:
    return middling(family).entry_layers(EncoderSizes(4, 3, 24, 16)).text is not None


def test_every_family_has_a_model_class() -> None:
    assert set(FAMILIES) == set(ORACLES)
    for name in FAMILIES:
        model = load_model_class(name)
        assert model.architecture_class is load_architecture_class(name)


# Logits


def layers_of(model: Any, rows: Tensor, mask: Tensor | None, start: int, stop: int) -> Tensor:
    """Run some layers of a model of transformers, as its own forward does."""
    layers = model.layers if hasattr(model, "layers") else model.encoder.layer
    for layer in layers[start:stop]:
        output = layer(rows) if mask is None else layer(rows, mask)
        rows = output[0] if isinstance(output, tuple) else output
    return rows


def visible(seen: Tensor) -> Tensor:
    """Return the additive mask (…) of 0 and −inf, given what is visible."""
    return torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen, float("-inf"))


def over(mask: Tensor, further: int) -> Tensor:
    """Return the additive mask, (B, 1, 1, T + E), of text tokens and further tokens after them."""
    return visible(torch.cat([mask, mask.new_ones(len(mask), further)], dim=1))[:, None, None]


def unimodal(model: Any, vit: Any, bert: Any, pixels: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the outputs of both encoders."""
    del model
    return vit(pixels).last_hidden_state, bert(ids, attention_mask=mask).last_hidden_state


def image_only(model: Any, *given: Any) -> Tensor:
    logits: Tensor = model.classifier(unimodal(model, *given)[0][:, 0])
    return logits


def text_only(model: Any, *given: Any) -> Tensor:
    logits: Tensor = model.classifier(unimodal(model, *given)[1][:, 0])
    return logits


def concatenated(model: Any, *given: Any) -> Tensor:
    z, t = unimodal(model, *given)
    logits: Tensor = model.classifier(torch.cat([z[:, 0], t[:, 0]], dim=1))
    return logits


def linear(model: Any, vit: Any, bert: Any, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    z, t = unimodal(model, vit, bert, pixels, ids, mask)
    means = z.mean(dim=1), torch.stack([row[seen].mean(dim=0) for row, seen in zip(t, mask, strict=True)])
    chosen = model.architecture
    image, text = means[0] if chosen.image_readout else z[:, 0], means[1] if chosen.text_readout else t[:, 0]
    logits: Tensor = model.classifier(torch.cat([image, text], dim=1))
    return logits


def bilinear(model: Any, vit: Any, bert: Any, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """Return x · w + y · v + Σ_ij M_ij a_i b_j + bias, with components a of the image and b of the text."""
    z, t = unimodal(model, vit, bert, pixels, ids, mask)
    means = z.mean(dim=1), torch.stack([row[seen].mean(dim=0) for row, seen in zip(t, mask, strict=True)])
    chosen, count = model.architecture, model.architecture.components
    image, text = means[0] if chosen.image_readout else z[:, 0], means[1] if chosen.text_readout else t[:, 0]
    a, b, weight = model.image_projection(image), model.text_projection(text), model.classifier.weight
    logits: Tensor = image @ weight[:, : image.shape[1]].T + model.classifier.bias
    logits = logits + text @ weight[:, image.shape[1] : -(count**2)].T
    place = -(count**2)
    for largest in range(count):  # the products in which component `largest` is the last one of either modality
        pairs = [(i, largest) for i in range(largest)] + [(largest, j) for j in range(largest + 1)]
        for i, j in pairs:
            logits = logits + (a[:, i] * b[:, j])[:, None] * weight[:, place]
            place += 1
    return logits


def vpt(model: Any, vit: Any, bert: Any, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    del bert, ids, mask
    rows, first = vit.embeddings(pixels), model.architecture.first_layer
    count = rows.shape[1]
    rows = layers_of(vit, rows, None, 0, first)
    for index, prompts in enumerate(model.prompts, start=first):
        with_prompts = torch.cat([rows, prompts.expand(len(rows), -1, -1)], dim=1)
        rows = layers_of(vit, with_prompts, None, index, index + 1)[:, :count]
    logits: Tensor = model.classifier(vit.layernorm(rows)[:, 0])
    return logits


def p_bert(model: Any, vit: Any, bert: Any, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    del vit, pixels
    first, count = model.architecture.first_layer, ids.shape[1]
    rows = layers_of(bert, bert.embeddings(ids), over(mask, 0), 0, first)
    for index, prompts in enumerate(model.prompts, start=first):
        with_prompts = torch.cat([rows, prompts.expand(len(rows), -1, -1)], dim=1)
        rows = layers_of(bert, with_prompts, over(mask, len(prompts)), index, index + 1)[:, :count]
    logits: Tensor = model.classifier(rows[:, 0])
    return logits


def mmbt(model: Any, vit: Any, bert: Any, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    z = bert.embeddings.LayerNorm(model.projection(vit(pixels).last_hidden_state) + model.segment)
    rows = torch.cat([bert.embeddings(ids), z], dim=1)
    logits: Tensor = model.classifier(layers_of(bert, rows, over(mask, z.shape[1]), 0, 3)[:, 0])
    return logits


def mbt(model: Any, vit: Any, bert: Any, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    count, fusing = len(model.bottleneck_prompts), 3 - model.architecture.fusion_layer
    z = layers_of(vit, vit.embeddings(pixels), None, 0, 4 - fusing)
    t = layers_of(bert, bert.embeddings(ids), over(mask, 0), 0, 3 - fusing)
    shared = model.bottleneck_prompts.expand(len(z), -1, -1)
    for left in range(fusing, 0, -1):
        z = layers_of(vit, torch.cat([z, model.to_image(shared)], dim=1), None, 4 - left, 5 - left)
        t = layers_of(bert, torch.cat([t, shared], dim=1), over(mask, count), 3 - left, 4 - left)
        if left > 1:
            shared = (model.to_text(z[:, -count:]) + t[:, -count:]) / 2
        z, t = z[:, :-count], t[:, :-count]
    logits: Tensor = (model.image_classifier(vit.layernorm(z)[:, 0]) + model.text_classifier(t[:, 0])) / 2
    return logits


def prompt_fuse(model: Any, vit: Any, bert: Any, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    z = model.projection(vit(pixels).last_hidden_state)
    rows = torch.cat([bert.embeddings(ids), z, model.prompts.expand(len(z), -1, -1)], dim=1)
    seen = over(mask, z.shape[1] + len(model.prompts))
    logits: Tensor = model.classifier(layers_of(bert, rows, seen, 0, 3)[:, 0])
    return logits


def blind_prompt(model: Any, vit: Any, bert: Any, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    z, count = model.projection(vit(pixels).last_hidden_state), len(model.prompts)
    rows = torch.cat([bert.embeddings(ids), z, model.prompts.expand(len(z), -1, -1)], dim=1)
    seen = torch.ones(len(z), 1, rows.shape[1], rows.shape[1], dtype=torch.bool)
    seen[:, :, :-count, -count:] = False
    seen[:, 0, :, : ids.shape[1]] &= mask[:, None]
    logits: Tensor = model.classifier(layers_of(bert, rows, visible(seen), 0, 3)[:, -count:].mean(dim=1))
    return logits


def crossed(block: Any, x: Tensor, z: Tensor, heads: int) -> Tensor:
    """Return norm(x + cross-attention of x to z), one head after the other."""
    part, found = block.attention, []
    for query, key, value in zip(
        *(layer(rows).chunk(heads, dim=2) for layer, rows in ((part.query, x), (part.key, z), (part.value, z))),
        strict=True,
    ):
        scores = torch.einsum("bqd,bkd->bqk", query, key) / query.shape[2] ** 0.5
        found.append(torch.einsum("bqk,bkd->bqd", scores.softmax(dim=2), value))
    normed: Tensor = block.norm(x + part.output(torch.cat(found, dim=2)))
    return normed


def albef(model: Any, vit: Any, bert: Any, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    first, z = model.architecture.fusion_layer, vit(pixels).last_hidden_state
    t = layers_of(bert, bert.embeddings(ids), over(mask, 0), 0, first)
    for layer, block in zip(bert.encoder.layer[first:], model.cross_attention, strict=True):
        t = crossed(block, layer.attention(t, over(mask, 0))[0], z, heads=2)
        t = layer.output(layer.intermediate(t), t)
    logits: Tensor = model.classifier(t[:, 0])
    return logits


def vlmo(model: Any, vit: Any, bert: Any, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """Text before image, as in the paper: the order of a sequence without relative positions changes nothing."""
    count, lower = ids.shape[1], model.architecture.modality_layers
    t = model.projection(bert.embeddings(ids)) + model.segments[1]
    rows = torch.cat([t, vit.embeddings(pixels) + model.segments[0]], dim=1)
    seen = over(mask, rows.shape[1] - count)
    for index, layer in enumerate(vit.layers):
        rows = rows + layer.attention(layer.layernorm_before(rows), seen)[0]
        experts = [layer, layer]
        if index < lower:
            experts[0] = model.image_encoder.language_experts[index]
        parts = (rows[:, :count], rows[:, count:])
        changes = [one.mlp(one.layernorm_after(part)) for one, part in zip(experts, parts, strict=True)]
        rows = rows + torch.cat(changes, dim=1)
    logits: Tensor = model.classifier(vit.layernorm(rows)[:, 0])
    return logits


def vse(model: Any, vit: Any, bert: Any, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """Return √E (f · u_c + g · v_c) + E Σ_j f_j g_j w_cj + bias, with unit vectors f of the image and g of the text."""
    z, t = unimodal(model, vit, bert, pixels, ids, mask)
    f, g = model.image_projection(z[:, 0]), model.text_projection(t[:, 0])
    f, g = f / f.square().sum(dim=1, keepdim=True).sqrt(), g / g.square().sum(dim=1, keepdim=True).sqrt()
    u, v, w = model.classifier.weight.unflatten(1, (-1, 3)).unbind(2)
    width = f.shape[1]
    linear_part = width**0.5 * (f @ u.T + g @ v.T)
    logits: Tensor = linear_part + width * torch.einsum("bj,bj,cj->bc", f, g, w) + model.classifier.bias
    return logits


def coattended(block: Any, rows: Tensor, other: Tensor, mask: Tensor | None, heads: int) -> Tensor:
    """Return one stream after a co-attention layer, by the attention of torch."""
    seen = block.other_norm(other).transpose(0, 1)
    attended, _ = multi_head_attention_forward(
        block.norm(rows).transpose(0, 1),
        seen,
        seen,
        embed_dim_to_check=rows.shape[2],
        num_heads=heads,
        in_proj_weight=None,
        in_proj_bias=torch.cat([block.query.bias, block.key.bias, block.value.bias]),
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=block.output.weight,
        out_proj_bias=block.output.bias,
        training=False,
        key_padding_mask=None if mask is None else ~mask,
        need_weights=False,
        use_separate_proj_weight=True,
        q_proj_weight=block.query.weight,
        k_proj_weight=block.key.weight,
        v_proj_weight=block.value.weight,
    )
    rows = rows + attended.transpose(0, 1)
    changed: Tensor = rows + block.outer(gelu(block.inner(block.feed_forward_norm(rows))))
    return changed


def vilbert(model: Any, vit: Any, bert: Any, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    first = model.architecture.coattention_layer
    chosen = range(first, min(first + model.architecture.coattentions, 3))
    assert len(chosen) == len(model.image_coattention) == len(model.text_coattention)
    heads = vit.config.num_attention_heads, bert.config.num_attention_heads
    z, t = layers_of(vit, vit.embeddings(pixels), None, 0, 1), bert.embeddings(ids)  # one layer more than the text has
    for layer in range(3):
        if layer in chosen:
            own, others = model.image_coattention[layer - first], model.text_coattention[layer - first]
            z, t = coattended(own, z, t, mask, heads[0]), coattended(others, t, z, None, heads[1])
        z, t = layers_of(vit, z, None, layer + 1, layer + 2), layers_of(bert, t, over(mask, 0), layer, layer + 1)
    product = model.image_projection(vit.layernorm(z)[:, 0]) * model.text_projection(t[:, 0])
    logits: Tensor = model.classifier(product)
    return logits


def uniter(model: Any, vit: Any, bert: Any, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    z, first = model.norm(model.projection(vit(pixels).last_hidden_state)), model.architecture.fusion_layer
    t = layers_of(bert, bert.embeddings(ids), over(mask, 0), 0, first)
    rows = layers_of(bert, torch.cat([t, z], dim=1), over(mask, z.shape[1]), first, 3)
    logits: Tensor = model.classifier(rows[:, 0])
    return logits


def vilt(model: Any, vit: Any, bert: Any, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    z, t = vit.embeddings(pixels) + model.image_type, model.projection(bert.embeddings(ids)) + model.text_type
    rows = torch.cat([z, t], dim=1)  # the order makes no difference
    hidden = torch.cat([torch.zeros(len(z), z.shape[1]), visible(mask)], dim=1)[:, None, None]
    rows = layers_of(vit, rows, hidden, 0, model.architecture.depth)
    logits: Tensor = model.classifier(vit.layernorm(rows)[:, z.shape[1]])
    return logits


def pmf(model: Any, vit: Any, bert: Any, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    del vit, bert
    return reference_logits(model, pixels, ids, mask)


def text_vector(text: Any, rows: Tensor) -> Tensor:
    """Return the embedding of one text of CLIP, (E,), given the vectors of its tokens, (T, D)."""
    count = len(rows)
    ahead = visible(torch.ones(count, count, dtype=torch.bool).tril())[None, None]
    rows = (rows + text.embeddings.position_embedding.weight[:count])[None]
    for layer in text.encoder.layers:
        output = layer(rows, ahead)
        rows = output[0] if isinstance(output, tuple) else output
    vector = text.contrastive_projection.weight @ text.final_layer_norm(rows)[0, -1]
    unit: Tensor = vector / vector.norm()
    return unit


def cosines(model: Any, vision: Any, text: Any, given: tuple[Tensor, Tensor, Tensor], classes: list[Tensor]) -> Tensor:
    """Return the logits of samples, (B, C), one cosine after the other."""
    pixels, ids, mask = given
    logits = []
    for picture, tokens, seen in zip(vision(pixels).pooler_output, ids, mask, strict=True):
        image = vision.contrastive_projection.weight @ picture
        values = torch.stack([image @ vector / image.norm() for vector in classes])
        if model.architecture.sample_text:
            own = text_vector(text, text.embeddings.token_embedding(tokens[seen]))
            weight = model.text_weight if model.learns_weight else 1.0
            values = values + weight * torch.stack([own @ vector for vector in classes])
        logits.append(SCALE * values)
    return torch.stack(logits)


def clip_zero_shot(model: Any, vision: Any, text: Any, *given: Tensor) -> Tensor:
    texts, classes = model.class_texts, []
    for index in range(CLASSES):
        found = []
        for template in range(len(texts.ids)):
            words = texts.ids[template, index][texts.mask[template, index]]
            found.append(text_vector(text, text.embeddings.token_embedding(words)))
        mean = torch.stack(found).mean(dim=0)
        classes.append(mean / mean.norm())
    return cosines(model, vision, text, (given[0], given[1], given[2]), classes)


def coop(model: Any, vision: Any, text: Any, *given: Tensor) -> Tensor:
    """Replace words of the first template, which has three before the name of the class, one by one."""
    texts, classes, length = model.class_texts, [], model.architecture.prompt_length
    for index in range(CLASSES):
        start, *words = text.embeddings.token_embedding(texts.ids[0, index][texts.mask[0, index]])
        kept = words[3:] if model.architecture.initial_text else words[min(3, length) :]
        classes.append(text_vector(text, torch.stack([start, *model.prompts, *kept])))
    return cosines(model, vision, text, (given[0], given[1], given[2]), classes)


ORACLES: dict[str, Callable[..., Tensor]] = {
    "pmf": pmf,
    "image_only": image_only,
    "text_only": text_only,
    "vpt": vpt,
    "p_bert": p_bert,
    "linear": linear,
    "bilinear": bilinear,
    "late_concat": concatenated,
    "mmbt": mmbt,
    "mbt": mbt,
    "prompt_fuse": prompt_fuse,
    "blind_prompt": blind_prompt,
    "clip_zero_shot": clip_zero_shot,
    "coop": coop,
    "vpt_clip": maple_logits,
    "maple": maple_logits,
    "albef": albef,
    "vlmo": vlmo,
    "vse": vse,
    "vilbert": vilbert,
    "uniter": uniter,
    "vilt": vilt,
}


@pytest.mark.parametrize("image_hidden_size", [24, 16], ids=["different hidden sizes", "same hidden size"])
@every_family
def test_logits_and_gradients_equal_the_papers_definition(family: str, image_hidden_size: int) -> None:
    pair = pair_for(family, image_hidden_size=image_hidden_size)
    vit, bert = pair[0].model, pair[1].model
    raw = raw_batch()
    for architecture in dict.fromkeys([space_of(family).smallest, middling(family), space_of(family).largest]):
        model = fresh(family, architecture, pair)
        trained = [parameter for parameter in model.parameters() if parameter.numel()]
        got = logits_of(model, *raw)
        expected = ORACLES[family](model, vit, bert, *raw)
        assert got.shape == (5, CLASSES)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)
        upstream = torch.randn_like(got)
        # The oracle uses the weights of the frozen encoders, so trained encoders are not part of its graph.
        shared = [entry for entry in trained if not is_of_encoder(model, entry)]
        if not shared:
            assert not got.requires_grad
            continue
        gradients = torch.autograd.grad(got, shared, upstream)
        for gradient, other in zip(gradients, torch.autograd.grad(expected, shared, upstream), strict=True):
            torch.testing.assert_close(gradient, other, rtol=1e-8, atol=1e-10)


def is_of_encoder(model: FusionModel, parameter: Tensor) -> bool:
    return any(
        parameter is own
        for name, own in model.named_parameters()
        if name.startswith(("image_encoder.", "text_encoder."))
    )


@every_family
def test_additional_padding_changes_nothing(family: str) -> None:
    model, (pixels, ids, mask) = fresh(family), raw_batch()
    expected = logits_of(model, pixels, ids, mask)
    longer = torch.cat([ids, torch.full((len(ids), 4), 7)], dim=1)
    padded = torch.cat([mask, mask.new_zeros(len(mask), 4)], dim=1)
    torch.testing.assert_close(logits_of(model, pixels, longer, padded), expected, rtol=0, atol=1e-12)
    whole = logits_of(model, pixels[:1], ids[:1], None)  # the first text fills its row
    torch.testing.assert_close(whole, expected[:1], rtol=0, atol=1e-12)


@every_family
def test_logits_depend_on_what_the_family_reads_and_on_nothing_else(family: str) -> None:
    model, (pixels, ids, mask) = fresh(family), raw_batch()
    before = logits_of(model, pixels, ids, mask)
    for changed, matters in (
        ((pixels + 1, ids, mask), reads_images(family)),
        ((pixels, (ids + 1) % 50, mask), reads_texts(family)),
    ):
        assert torch.equal(before, logits_of(model, *changed)) is not matters


IMAGES = [family for family in ALL_FAMILIES if family.modality == "image"]
PAIRS = [*((image, TEXT_FAMILIES[0]) for image in IMAGES), *((IMAGES[0], text) for text in TEXT_FAMILIES[1:])]
"""Every encoder family once, paired with one of the other modality."""


@pytest.mark.parametrize(
    ("family", "encoders_of"),
    [
        # Every pair meets some families, every family some pairs; all of them meet in the long tests.
        pytest.param(
            family,
            pair,
            marks=[] if family == "pmf" or (place + index) % 4 == 0 else [pytest.mark.long],
            id=f"{family}-{pair[0]}, {pair[1]}",
        )
        for place, family in enumerate(name for name in FAMILIES if not reads_class_texts(name))
        for index, pair in enumerate(PAIRS)
    ],
)
def test_every_encoder_family_ignores_padding_and_trains_all_weights(
    family: str, encoders_of: tuple[TinyFamily, TinyFamily]
) -> None:
    """Covers causal texts, relative positions and pooling heads."""
    image, text = encoders_of
    pair = image.encoder(image.model(4, 24)), text.encoder(text.model(3, 24))
    (pixels, _), (ids, mask) = image.batch(), text.batch()
    pixels, ids, mask = pixels[: len(ids)], ids[: len(pixels)], mask[: len(pixels)]
    model = fresh(family, pair=pair)
    expected = logits_of(model, pixels, ids, mask)
    assert bool(expected.isfinite().all())
    longer = torch.cat([ids, ids[:, :2]], dim=1)
    padded = torch.cat([mask, mask.new_zeros(len(mask), 2)], dim=1)
    torch.testing.assert_close(logits_of(model, pixels, longer, padded), expected, rtol=0, atol=1e-10)
    torch.autograd.backward(expected.square().sum())
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize("text", TEXT_FAMILIES, ids=str)
def test_blind_prompts_equal_those_of_one_joint_sequence(text: TinyFamily) -> None:
    """Computing data separately from prompts is exact if no data token attends to a prompt."""
    image = IMAGES[0]
    pair = image.encoder(image.model(4, 24)), text.encoder(text.model(3, 24))
    (pixels, _), (ids, mask) = image.batch(), text.batch()
    pixels, ids, mask = pixels[: len(ids)], ids[: len(pixels)], mask[: len(pixels)]
    model: Any = fresh("blind_prompt", pair=pair)
    features = features_of(pair, model.entry_layers(), pixels, ids, mask)
    z, count = model.projection(pair[0].finish(features.image_tokens)), len(model.prompts)
    rows = torch.cat([features.text_tokens, z, model.prompts.expand(len(z), -1, -1)], dim=1)
    hidden = joint_bias(pair[1], features.text_tokens, mask, further=z.shape[1] + count)
    assert hidden is not None
    seen = hidden.expand(-1, -1, rows.shape[1], -1).clone()
    seen[:, :, :-count, -count:] = float("-inf")
    rows = pair[1].run(rows, seen, start=0, stop=3)
    expected = model.classifier(pair[1].finish(rows[:, -count:]).mean(dim=1))
    torch.testing.assert_close(logits_of(model, pixels, ids, mask), expected, rtol=0, atol=1e-10)


# Trained parameters


@every_family
def test_logits_are_the_mean_of_those_of_the_classifiers_that_are_called(family: str) -> None:
    model = fresh(family)
    found: list[Tensor] = []

    def record(classifier: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        size = classifier.in_features if isinstance(classifier, nn.Linear) else COMMON_SIZE
        assert isinstance(classifier, nn.Linear) is not reads_class_texts(family)
        assert inputs[0].shape == (len(output), size)
        found.append(output)

    for name, module in model.named_children():
        if "classifier" in name:
            module.register_forward_hook(record)
    logits = logits_of(model, *raw_batch())
    torch.testing.assert_close(torch.stack(found).mean(dim=0), logits)


@every_family
def test_all_trained_parameters_get_gradients_and_frozen_ones_do_not_change(family: str) -> None:
    pair = pair_for(family)
    before = [parameter.clone() for encoder in pair for parameter in encoder.parameters()]
    model = fresh(family, pair=pair)
    architecture_class = type(model).architecture_class
    trained, loss = list(model.parameters()), logits_of(model, *raw_batch()).square().sum()
    assert loss.requires_grad is bool(trained)
    if trained:
        torch.autograd.backward(loss)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad
        if parameter.numel():
            assert parameter.grad is not None and bool(parameter.grad.abs().sum() > 0), name
    assert {name.partition("_encoder.")[0] for name in model.state_dict() if "_encoder." in name} == set(
        architecture_class.trains
    )
    if trained:
        torch.optim.SGD(trained, lr=1.0).step()
    after = [parameter for encoder in pair for parameter in encoder.parameters()]
    assert all(torch.equal(old, new) and new.grad is None for old, new in zip(before, after, strict=True))
    assert not any(parameter.requires_grad for parameter in after)


@every_family
def test_supernet_slices_equal_standalone_models(family: str) -> None:
    image, text = pair_for(family)
    space = space_of(family)
    supernet = build_supernet(
        image_encoder=image,
        text_encoder=text,
        space=space,
        num_classes=CLASSES,
        seed=1,
        class_texts=texts_for(family),
    ).double()
    for architecture in dict.fromkeys([space.smallest, middling(family), space.largest]):
        features = features_of(supernet.encoders, supernet.entry_layers(architecture), *raw_batch())
        alone = extract(supernet, architecture).double()
        sliced = supernet(features, architecture)
        torch.testing.assert_close(alone(features), sliced, rtol=0, atol=1e-12)
        (together,) = supernet.population_logits(features, [architecture])
        torch.testing.assert_close(together, sliced, rtol=0, atol=1e-12)
        used = supernet.used_parameters(architecture)
        supernet.zero_grad(set_to_none=True)
        if sliced.requires_grad:
            torch.autograd.backward(sliced.sum())
        gradients = {id(entry): entry.grad for entry in supernet.parameters() if entry.grad is not None}
        assert {key for key, entry in gradients.items() if bool(entry.any())} <= {id(entry) for entry in used}


@every_family
def test_architecture_of_another_family_or_depth_is_rejected(family: str) -> None:
    other = "pmf" if family != "pmf" else "mbt"
    model, (image, text) = fresh(family), pair_for(family)
    with pytest.raises(ValueError, match=f"{family} model: wrong architecture; expected a"):
        type(model)(image_encoder=image, text_encoder=text, architecture=middling(other), num_classes=2)
    for name, largest in load_architecture_class(family).largest_values(sizes_of(image, text)).items():
        with pytest.raises(
            ValueError, match=rf"{name}: out of range for these encoders; expected \d to {largest}, got"
        ):
            fresh(family, replace(space_of(family).largest, **{name: largest + 1}))  # type: ignore[type-var]


def test_parameter_counts_equal_closed_forms() -> None:
    pair = pair_for("pmf")
    image, text = (sum(entry.numel() for entry in encoder.parameters()) for encoder in pair)
    head = CLASSES * (24 + 1), CLASSES * (16 + 1)
    words = sum(entry.numel() for entry in pair[1].model.embeddings.parameters())

    def coattention(size: int, other: int) -> int:
        return 2 * (2 * size + other) + 2 * (size + 1) * size + 2 * (other + 1) * size + 8 * size**2 + 5 * size

    expected = {
        "image_only": image + head[0],
        "text_only": text + head[1],
        "linear": CLASSES * (24 + 16 + 1),
        "bilinear": 16 * (24 + 1 + 16 + 1) + CLASSES * (24 + 16 + 16**2 + 1),
        "late_concat": image + text + CLASSES * (24 + 16 + 1),
        "mmbt": image + text + (24 + 1) * 16 + 16 + head[1],
        "mbt": image + text + 2 * 16 + (16 + 1) * 24 + (24 + 1) * 16 + sum(head),
        "vpt": 4 * 10 * 24 + head[0],
        "p_bert": 3 * 10 * 16 + head[1],
        "prompt_fuse": 20 * 16 + (24 + 1) * 16 + head[1],
        "blind_prompt": 20 * 16 + (24 + 1) * 16 + head[1],
        "clip_zero_shot": 0,
        "coop": 4 * 16,
        "vpt_clip": 4 * 2 * 24,
        "maple": 3 * 2 * 16 + 3 * (16 + 1) * 24,
        "albef": image + text + 2 * (2 * (16 + 1) * 16 + 2 * (24 + 1) * 16 + 2 * 16) + head[1],
        "vlmo": image + 3 * (2 * 24 + (24 + 1) * 48 + (48 + 1) * 24) + words + (16 + 1) * 24 + 2 * 24 + head[0],
        "vse": image + text + (24 + 1 + 16 + 1) * 24 + CLASSES * (3 * 24 + 1),
        "vilbert": image + text + 2 * (coattention(24, 16) + coattention(16, 24)) + (24 + 1 + 16 + 1) * 24 + head[0],
        "uniter": text + (24 + 1) * 16 + 2 * 16 + head[1],
        "vilt": image + words + (16 + 1) * 24 + 2 * 24 + head[0],
    }
    for family, count in expected.items():
        pair = pair_for(family)
        architecture = (
            load_architecture_class(family).default(sizes_of(*pair)) if family != "mbt" else MBTArchitecture(1, 2)
        )
        assert load_model_class(family).parameter_count(pair, architecture, CLASSES) == count, family


def test_defaults_are_the_papers() -> None:
    base = EncoderSizes(12, 12, 768, 768)
    assert load_architecture_class("mbt").default(base) == MBTArchitecture(8, 4)
    assert load_architecture_class("vpt").default(base) == VPTArchitecture(0, 10)
    assert load_architecture_class("p_bert").default(base) == PBERTArchitecture(0, 10)
    assert load_architecture_class("prompt_fuse").default(base) == PromptFuseArchitecture(20)
    assert load_architecture_class("blind_prompt").default(base) == BlindPromptArchitecture(20)
    assert load_architecture_class("clip_zero_shot").default(base) == CLIPZeroShotArchitecture()
    assert load_architecture_class("coop").default(base) == CoOpArchitecture(4)
    assert load_architecture_class("vpt_clip").default(base) == VPTCLIPArchitecture(9, 2)
    assert load_architecture_class("maple").default(base) == MaPLeArchitecture(9, 2)
    assert load_architecture_class("albef").default(base) == ALBEFArchitecture(6)
    assert load_architecture_class("vlmo").default(base) == VLMoArchitecture(10)
    assert load_architecture_class("vlmo").default(EncoderSizes(24, 24, 1024, 1024)) == VLMoArchitecture(21)
    assert load_architecture_class("vse").default(base) == VSEArchitecture(768)
    assert load_architecture_class("vse").default(EncoderSizes(24, 24, 1280, 1024)) == VSEArchitecture(1024)
    assert load_architecture_class("vilbert").default(base) == ViLBERTArchitecture(6, 6)
    assert load_architecture_class("uniter").default(base) == UNITERArchitecture(0)
    assert load_architecture_class("vilt").default(base) == ViLTArchitecture(12)


# Memory


def batch_of(features: Features, size: int) -> Batch:
    return Batch(
        image_tokens=features.image_tokens,
        text_tokens=features.text_tokens,
        text_mask=features.text_mask,
        labels=torch.zeros(size, dtype=torch.int64),
    )


STEPS = [(2, 24, "float32"), (2, 16, "bfloat16"), (1, 24, "float32"), (1, 16, "float32"), (1, 24, "bfloat16")]
"""Micro-batches, hidden size of the image encoder and precision of steps whose memory is predicted."""


@pytest.mark.parametrize(
    ("family", "micro_batches", "image_hidden_size", "precision"),
    [
        # One step tells whether a family is predicted; all five, whether the prediction of steps is right.
        pytest.param(family, *step, marks=[] if family in ("pmf", "mbt") or index == place % 2 else [pytest.mark.long])
        for place, family in enumerate(FAMILIES)
        for index, step in enumerate(STEPS)
    ],
)
def test_predicted_memory_equals_the_peak_of_a_step(
    family: str, micro_batches: int, image_hidden_size: int, precision: Precision
) -> None:
    pair, readers = (pair_for(family, torch.float32, image_hidden_size=image_hidden_size) for _ in range(2))
    for encoder in pair:
        hold_products_in(encoder, product_dtype(precision))
    space = space_of(family)
    recipe = RECIPE.replace(batch_size=4, precision=precision)
    memory = MemoryModel(
        image_config=pair[0].config,
        text_config=pair[1].config,
        recipe=recipe,
        task=TaskShapes(
            (3, 16, 16), image_token_count=5, text_token_count=7, num_classes=CLASSES, class_texts=texts_for(family)
        ),
        features=FeaturesConfig(dtype="float16", disk_bytes=2**30, attention=False, views=1),
        space=space,
    )
    for architecture in dict.fromkeys([space.smallest, middling(family), space.largest]):
        model = fresh(family, architecture, pair)
        trained = list(model.parameters())
        prediction = memory.predict(architecture, micro_batches=micro_batches)
        assert prediction.trained_bytes == 4 * sum(parameter.numel() for parameter in trained)
        assert memory.parameter_count(architecture) == sum(parameter.numel() for parameter in trained)
        pixels, ids, _ = raw_batch(size=4 // micro_batches)
        features = features_of(
            readers, model.entry_layers(), pixels.float(), ids, torch.ones(len(ids), 7, dtype=torch.bool)
        )
        stored = replace(features, image_tokens=halved(features.image_tokens), text_tokens=halved(features.text_tokens))
        trainer = Trainer(model=model, recipe=recipe, step_count=1, loss=Loss(None, 0.0))
        weights = [*trained, *(parameter for encoder in pair for parameter in encoder.parameters())]
        with PeakTracker(weights) as tracker:
            trainer.accumulate_gradients(
                (batch_of(cloned(stored), len(ids)) for _ in range(micro_batches)), 4, architecture
            )
        assert tracker.peak_bytes == pytest.approx(prediction.step_bytes, rel=0.05), architecture


def halved(tokens: Tensor) -> Tensor:
    return tokens.half() if tokens.is_floating_point() and tokens.numel() else tokens


def cloned(features: Features) -> Features:
    """Copy features into a separate batch, as the feature store returns one."""
    mask = features.text_mask
    return replace(
        features,
        image_tokens=features.image_tokens.clone(),
        text_tokens=features.text_tokens.clone(),
        text_mask=None if mask is None else mask.clone(),
    )


@every_family
def test_entry_layers_depend_only_on_the_layer_gene_and_on_alternatives(family: str) -> None:
    sizes, space = EncoderSizes(4, 3, 24, 16), space_of(family)
    names = [gene.name for gene in load_architecture_class(family).genes if gene.names]

    def kind(architecture: Architecture) -> tuple[int, ...]:
        return architecture.first_layer, *(getattr(architecture, name) for name in names)

    reads = {kind(architecture): architecture.entry_layers(sizes) for architecture in space}
    for architecture in space:
        assert architecture.entry_layers(sizes) == reads[kind(architecture)]
    trains = load_architecture_class(family).trains
    for found in reads.values():
        assert isinstance(found, EntryLayers)
        for modality, layer in zip(("image", "text"), found, strict=True):
            assert (layer == RAW) == (modality in trains)


# Export


def exported(model: FusionModel, pair: tuple[Encoder, Encoder], directory: Path) -> Any:
    """Export a model, and load it by `from_pretrained`."""
    whole = assemble(
        image_encoder=pair[0],
        text_encoder=pair[1],
        trained=model,
        class_names=[f"class {index}" for index in range(CLASSES)],
        max_text_tokens=12,
    )
    whole.save_pretrained(directory)
    loaded, report = FusionForClassification.from_pretrained(directory, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    return loaded


@pytest.mark.parametrize("encoders_of", PAIRS, ids=lambda pair: f"{pair[0]}, {pair[1]}")
@pytest.mark.parametrize("family", ["late_concat", "pmf"])
def test_exported_model_with_every_encoder_family_gives_the_same_logits(
    family: str, encoders_of: tuple[TinyFamily, TinyFamily], tmp_path: Path
) -> None:
    image, text = encoders_of
    pair = image.encoder(image.model(4, 24, torch.float32)), text.encoder(text.model(3, 24, torch.float32))
    (pixels, _), (ids, mask) = image.batch(torch.float32), text.batch()
    pixels, ids, mask = pixels[: len(ids)], ids[: len(pixels)], mask[: len(pixels)]
    model = fresh(family, pair=pair)
    loaded = exported(model, pair, tmp_path)
    with torch.inference_mode():
        expected = logits_of(model, pixels, ids, mask)
        torch.testing.assert_close(loaded.eval()(pixels, ids, mask).logits, expected, rtol=0, atol=1e-5)


@every_family
def test_exported_model_gives_the_same_logits_when_loaded(family: str, tmp_path: Path) -> None:
    pair = pair_for(family, torch.float32)
    model = fresh(family, pair=pair)
    with torch.no_grad():  # as after training
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    loaded = exported(model, pair, tmp_path)
    pixels, ids, mask = raw_batch()
    with torch.inference_mode():
        expected = logits_of(model, pixels.float(), ids, mask)
        torch.testing.assert_close(loaded.eval()(pixels.float(), ids, mask).logits, expected, rtol=0, atol=1e-5)
    assert loaded.fusion.architecture == model.architecture
    used = [name for name in ("image_encoder", "text_encoder") if hasattr(loaded, name)]
    assert used == [
        f"{modality}_encoder"
        for modality, layer in zip(("image", "text"), model.entry_layers(), strict=True)
        if layer not in (None, RAW) or (modality == "text" and reads_class_texts(family))
    ]
