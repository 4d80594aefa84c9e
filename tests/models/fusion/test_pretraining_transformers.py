"""Pretraining of the fusion transformers: their outputs for pairs against the layers of `transformers`, in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm

from nas.models.fusion.base import features_of
from nas.models.fusion.pretraining import PretrainingModel
from tests.models.fusion.test_contract import coattended, fresh, layers_of, over, visible
from tests.support.tiny import raw_batch

IMAGES, TEXTS = torch.tensor([0, 1, 1, 4]), torch.tensor([2, 1, 0, 4])
"""The samples whose image and text make a pair."""
PLACES = torch.tensor([1, 7, 15, 22])
"""The places of masked tokens among the 5 · 7 of the batch."""

Batch = tuple[Tensor, Tensor, Tensor]


def pretraining(family: str) -> Any:
    """Return a pretraining model in float64 with weights that are not zero where those of a new model are."""
    model: Any = fresh(family)
    wrapped = model.pretraining_model().double()
    assert isinstance(wrapped, PretrainingModel)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.05)
    return wrapped


def states(wrapped: Any, batch: Batch) -> tuple[Any, Any]:
    features = features_of(wrapped.model.encoders, wrapped.model.entry_layers(), *batch)
    return wrapped.encode_images(features), wrapped.encode_texts(features)


def models(wrapped: Any) -> tuple[Any, Any]:
    """Return the image and the text model of transformers with the weights that are pretrained."""
    frozen = wrapped.model.encoders
    return tuple(
        getattr(wrapped.model, name, encoder).model
        for name, encoder in zip(("image_encoder", "text_encoder"), frozen, strict=True)
    )


def vilt(wrapped: Any, pixels: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return what matching reads, and the outputs of the texts' tokens."""
    model, (vit, bert) = wrapped.model, models(wrapped)
    z, t = vit.embeddings(pixels) + model.image_type, model.projection(bert.embeddings(ids)) + model.text_type
    hidden = torch.cat([torch.zeros(len(z), z.shape[1]), visible(mask)], dim=1)[:, None, None]
    rows = layers_of(vit, torch.cat([z, t], dim=1), hidden, 0, model.architecture.depth)
    rows = vit.layernorm(rows)[:, z.shape[1] :]
    return rows[:, 0], rows


def uniter(wrapped: Any, pixels: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    model, (vit, bert) = wrapped.model, models(wrapped)
    z, first = model.norm(model.projection(vit(pixels).last_hidden_state)), model.architecture.fusion_layer
    t = layers_of(bert, bert.embeddings(ids), over(mask, 0), 0, first)
    rows = layers_of(bert, torch.cat([t, z], dim=1), over(mask, z.shape[1]), first, 3)[:, : ids.shape[1]]
    return rows[:, 0], rows


def vilbert(wrapped: Any, pixels: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    model, (vit, bert) = wrapped.model, models(wrapped)
    first, heads = model.architecture.coattention_layer, (vit.config.num_attention_heads, 2)
    z, t = layers_of(vit, vit.embeddings(pixels), None, 0, 1), bert.embeddings(ids)
    for layer in range(3):
        if first <= layer < first + model.architecture.coattentions:
            own, others = model.image_coattention[layer - first], model.text_coattention[layer - first]
            z, t = coattended(own, z, t, mask, heads[0]), coattended(others, t, z, None, heads[1])
        z, t = layers_of(vit, z, None, layer + 1, layer + 2), layers_of(bert, t, over(mask, 0), layer, layer + 1)
    return model.image_projection(vit.layernorm(z)[:, 0]) * model.text_projection(t[:, 0]), t


ORACLES = {"vilt": vilt, "uniter": uniter, "vilbert": vilbert}


@pytest.mark.parametrize("family", ORACLES)
def test_pairs_are_matched_as_the_paper_defines_it(family: str) -> None:
    wrapped, (pixels, ids, mask) = pretraining(family), raw_batch()
    images, texts = states(wrapped, (pixels, ids, mask))
    read, _ = ORACLES[family](wrapped, pixels[IMAGES], ids[TEXTS], mask[TEXTS])
    head = wrapped.matching.pairs
    got = wrapped.match(images.take(IMAGES), texts.take(TEXTS))
    torch.testing.assert_close(got, read @ head.weight.T + head.bias, rtol=0, atol=1e-10)


@pytest.mark.parametrize("family", ORACLES)
def test_masked_tokens_are_predicted_by_the_head_of_bert(family: str) -> None:
    wrapped, batch = pretraining(family), raw_batch()
    _, rows = ORACLES[family](wrapped, *batch)
    head, words = wrapped.masked_language, models(wrapped)[1].embeddings.word_embeddings.weight
    chosen = torch.stack([rows[int(place) // 7, int(place) % 7] for place in PLACES])
    hidden = gelu(chosen @ head.dense.weight.T + head.dense.bias)
    hidden = layer_norm(hidden, hidden.shape[1:], head.norm.weight, head.norm.bias)
    got = wrapped.masked_token_logits(*states(wrapped, batch), PLACES)
    torch.testing.assert_close(got, hidden @ words.T + head.bias, rtol=0, atol=1e-10)


@pytest.mark.parametrize("family", ORACLES)
def test_pretraining_trains_all_weights_but_those_of_the_classifier(family: str) -> None:
    wrapped, batch = pretraining(family), raw_batch()
    images, texts = states(wrapped, batch)
    loss = (
        wrapped.match(images, texts).square().sum() + wrapped.masked_token_logits(images, texts, PLACES).square().sum()
    )
    torch.autograd.backward(loss)
    untrained = {name for name, entry in wrapped.named_parameters() if entry.grad is None}
    assert untrained == {"model.classifier.weight", "model.classifier.bias"}


def test_embeddings_of_vse_are_those_that_its_classifier_reads() -> None:
    wrapped, (pixels, ids, mask) = pretraining("vse"), raw_batch()
    (vit, bert), model = models(wrapped), wrapped.model
    images, texts = states(wrapped, (pixels, ids, mask))
    f = model.image_projection(vit(pixels).last_hidden_state[:, 0])
    g = model.text_projection(bert(ids, attention_mask=mask).last_hidden_state[:, 0])
    for got, rows in zip(wrapped.embed(images, texts), (f, g), strict=True):
        torch.testing.assert_close(got, rows / rows.square().sum(dim=1, keepdim=True).sqrt(), rtol=0, atol=1e-10)
    assert wrapped.temperature.shape == () and float(wrapped.temperature.detach()) > 0
    torch.autograd.backward((wrapped.embed(images, texts)[0] @ texts.rows.new_ones(7)).sum() / wrapped.temperature)
    assert {name for name, entry in wrapped.named_parameters() if entry.grad is None} == {
        name for name, _ in wrapped.named_parameters() if "text" in name or "classifier" in name
    }
