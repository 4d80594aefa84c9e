"""The objectives of ALBEF and VLMo on whole layers of transformers: embeddings, matching, masked words."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu

from nas.config.pretraining_schema import PretrainingConfig
from nas.config.training_schema import LearningRatesConfig
from nas.data.features.store import Batch
from nas.models.fusion.base import Features, features_of
from nas.models.fusion.pretraining import Pretrainable, PretrainingModel
from nas.search.pretraining import OBJECTIVES
from nas.training.objectives.contrastive import PairItems
from nas.training.objectives.masked_language import MaskedTexts
from nas.training.objectives.momentum import average_of, weights_replaced
from nas.training.pretraining.pairs import PairBatch
from nas.training.pretraining.settings import PretrainingSettings
from nas.training.pretraining.step import Pretrainer
from tests.models.fusion.test_contract import crossed, fresh, layers_of, over, space_of
from tests.support.tiny import raw_batch
from tests.support.tiny_clip import pair_for
from tests.support.tiny_memory import RECIPE

LENGTHS = raw_batch()[2].sum(dim=1).tolist()
PLACES = torch.tensor([0, 3, 7, 8, 29])
IMAGES, TEXTS = torch.tensor([0, 1, 2, 3, 4, 0, 3]), torch.tensor([0, 1, 2, 3, 4, 4, 1])


def unit(rows: Tensor) -> Tensor:
    return rows / rows.square().sum(dim=1, keepdim=True).sqrt()


def words(head: Any, rows: Tensor, embeddings: Tensor) -> Tensor:
    hidden: Tensor = head.norm(gelu(head.dense(rows)))
    logits: Tensor = hidden @ embeddings.T + head.bias
    return logits


class SlowALBEF:
    """One pair after the other, without padding."""

    def __init__(self, model: Any, vit: Any, bert: Any) -> None:
        self.model, self.vit, self.bert = model, vit, bert
        self.first = model.model.architecture.fusion_layer

    def text(self, ids: Tensor) -> Tensor:
        return layers_of(self.bert, self.bert.embeddings(ids[None]), None, 0, self.first)

    def embed(self, pixels: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        head, t = self.model.contrastive, self.text(ids)
        z = self.vit(pixels[None]).last_hidden_state
        return unit(head.image(z[:, 0])), unit(head.text(t[:, 0] if self.first else t.mean(dim=1)))

    def joint(self, pixels: Tensor, ids: Tensor) -> Tensor:
        z, t = self.vit(pixels[None]).last_hidden_state, self.text(ids)
        seen = over(torch.ones(1, len(ids), dtype=torch.bool), 0)
        for layer, block in zip(self.bert.encoder.layer[self.first :], self.model.model.cross_attention, strict=True):
            t = crossed(block, layer.attention(t, seen)[0], z, heads=2)
            t = layer.output(layer.intermediate(t), t)
        return t


class SlowVLMo:
    """One pair after the other, without padding; text before image."""

    def __init__(self, model: Any, vit: Any, bert: Any) -> None:
        self.model, self.vit, self.bert = model, vit, bert

    def inputs(self, pixels: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        own = self.model.model
        z = self.vit.embeddings(pixels[None]) + own.segments[0]
        return z, own.projection(self.bert.embeddings(ids[None])) + own.segments[1]

    def run(self, rows: Tensor, experts: list[list[tuple[Any, slice]]]) -> Tensor:
        for layer, parts in zip(self.vit.layers, experts, strict=True):
            rows = rows + layer.attention(layer.layernorm_before(rows))[0]
            rows = rows + torch.cat([one.mlp(one.layernorm_after(rows[:, part])) for one, part in parts], dim=1)
        normed: Tensor = self.vit.layernorm(rows)
        return normed

    def embed(self, pixels: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        (z, t), head, lower = self.inputs(pixels, ids), self.model.contrastive, self.model.model.experts
        everything = slice(None)
        vision = [*self.vit.layers[: len(lower)], *self.model.upper_experts("vision")]
        language = [*lower, *self.model.upper_experts("language")]
        z = self.run(z, [[(one, everything)] for one in vision])
        t = self.run(t, [[(one, everything)] for one in language])
        return unit(head.image(z[:, 0])), unit(head.text(t[:, 0]))

    def joint(self, pixels: Tensor, ids: Tensor) -> Tensor:
        (z, t), lower, count = self.inputs(pixels, ids), self.model.model.experts, len(ids)
        experts = [
            [(lower[index] if index < len(lower) else layer, slice(count)), (layer, slice(count, None))]
            for index, layer in enumerate(self.vit.layers)
        ]
        return self.run(torch.cat([t, z], dim=1), experts)[:, :count]


SLOW: dict[str, Any] = {"albef": SlowALBEF, "vlmo": SlowVLMo}


def outputs(model: PretrainingModel, features: Features) -> dict[str, Tensor]:
    images, texts = model.encode_images(features), model.encode_texts(features)
    image, text = model.embed(images, texts)
    found = {"image": image, "text": text, "matches": model.match(images.take(IMAGES), texts.take(TEXTS))}
    return found | {"words": model.masked_token_logits(images, texts, PLACES), "temperature": model.temperature}


def slow_outputs(slow: Any, pixels: Tensor, ids: Tensor) -> dict[str, Tensor]:
    model, short = slow.model, [row[:length] for row, length in zip(ids, LENGTHS, strict=True)]
    embedded = [slow.embed(image, text) for image, text in zip(pixels, short, strict=True)]
    matches = [
        model.matching.pairs(slow.joint(pixels[image], short[text])[:, 0])
        for image, text in zip(IMAGES, TEXTS, strict=True)
    ]
    chosen = [slow.joint(pixels[place // 7], short[place // 7])[0, place % 7] for place in PLACES.tolist()]
    found = words(model.words, torch.stack(chosen), model.model.text_encoder.model.embeddings.word_embeddings.weight)
    return {
        "image": torch.cat([image for image, _ in embedded]),
        "text": torch.cat([text for _, text in embedded]),
        "matches": torch.cat(matches),
        "words": found,
        "temperature": model.contrastive.log_temperature.exp(),
    }


@pytest.mark.parametrize("which", ["smallest", "largest"])
@pytest.mark.parametrize("image_hidden_size", [24, 16])
@pytest.mark.parametrize("family", SLOW)
def test_outputs_for_the_objectives_equal_whole_layers_one_pair_at_a_time(
    family: str, image_hidden_size: int, which: str
) -> None:
    pair, (pixels, ids, mask) = pair_for(family, image_hidden_size=image_hidden_size), raw_batch()
    fusion: Any = fresh(family, getattr(space_of(family), which), pair)
    model = fusion.pretraining_model().double()
    assert all(place % 7 < LENGTHS[place // 7] for place in PLACES.tolist())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith(("model.image_encoder.model", "model.text_encoder.model", "contrastive.log")):
                parameter.add_(torch.randn_like(parameter) * 0.1)
        features = features_of(pair, fusion.entry_layers(), pixels, ids, mask)
        got = outputs(model, features)
        expected = slow_outputs(SLOW[family](model, pair[0].model, pair[1].model), pixels, ids)
    assert set(got) == set(expected)
    for name, values in expected.items():
        torch.testing.assert_close(got[name], values, rtol=0, atol=1e-10)


@pytest.mark.parametrize("which", ["smallest", "largest"])
def test_vlmo_predicts_masked_words_of_texts_alone_by_the_experts_of_texts(which: str) -> None:
    pair, (pixels, ids, mask) = pair_for("vlmo"), raw_batch()
    fusion: Any = fresh("vlmo", getattr(space_of("vlmo"), which), pair)
    model = fusion.pretraining_model().double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "encoder.model" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    features = features_of(pair, fusion.entry_layers(), pixels, ids, mask)
    got = model.text_token_logits(model.encode_texts(features), PLACES)
    slow, language = SlowVLMo(model, *(encoder.model for encoder in pair)), model._language_experts()
    rows = []
    for place in PLACES.tolist():
        _, t = slow.inputs(pixels[0], ids[place // 7][: LENGTHS[place // 7]])
        rows.append(slow.run(t, [[(expert, slice(None))] for expert in language])[0, place % 7])
    embeddings = fusion.text_encoder.model.embeddings.word_embeddings.weight
    torch.testing.assert_close(got, words(model.words, torch.stack(rows), embeddings), rtol=0, atol=1e-10)
    torch.autograd.backward(got.square().sum())
    learned = {id(entry) for entry in model.text_weights()}
    own = {name for name, entry in model.named_parameters() if id(entry) in learned}
    assert all(entry.grad is not None and bool(entry.grad.any()) for entry in model.text_weights())
    parts = ("model.image_encoder.language_experts.", "image_encoder.language.", "model.text_encoder.", "words.")
    assert own and all(name.startswith((*parts, "model.projection.")) for name in own)
    assert not any("attention" in name for name in own)


@pytest.mark.parametrize("family", SLOW)
def test_objectives_train_all_weights_but_the_classifier(family: str) -> None:
    pair, raw = pair_for(family), raw_batch()
    fusion: Any = fresh(family, pair=pair)
    model = fusion.pretraining_model().double()
    features = features_of(pair, fusion.entry_layers(), *raw)
    found = outputs(model, features)
    weighted = [(values * torch.randn_like(values)).sum() for values in found.values()]
    torch.autograd.backward(torch.stack(weighted).sum())
    for name, parameter in model.named_parameters():
        is_trained = parameter.grad is not None and bool(parameter.grad.any())
        assert is_trained is not name.startswith("model.classifier."), name


@pytest.mark.parametrize("family", SLOW)
def test_momentum_model_computes_with_the_weights_that_are_put_in_place(family: str) -> None:
    pair, raw = pair_for(family), raw_batch()
    fusion, other = fresh(family, pair=pair), fresh(family, pair=pair)
    assert isinstance(fusion, Pretrainable) and isinstance(other, Pretrainable)
    model, changed = fusion.pretraining_model().double(), other.pretraining_model().double()
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        features = features_of(pair, fusion.entry_layers(), *raw)
        before, expected = outputs(model, features), outputs(changed, features)
        with weights_replaced(model, average_of(changed)):
            got = outputs(model, features)
        after = outputs(model, features)
    for name, values in expected.items():
        torch.testing.assert_close(got[name], values, rtol=0, atol=1e-12)
        assert torch.equal(after[name], before[name]) and not torch.equal(got[name], before[name])


@pytest.mark.parametrize("family", SLOW)
def test_steps_on_the_same_pairs_lower_the_loss(family: str) -> None:
    torch.manual_seed(0)
    fusion = fresh(family, pair=pair_for(family, torch.float32))
    (pixels, ids, mask), noise = raw_batch(), torch.zeros(2, 5, 5)
    pairs = PairBatch(
        Batch(image_tokens=pixels.half(), text_tokens=ids, text_mask=mask, labels=torch.zeros(5).long()),
        PairItems(torch.arange(5), torch.arange(5)),
        noise,
        MaskedTexts(ids.flatten().index_fill(0, PLACES, 3).view(5, 7), PLACES, ids.flatten()[PLACES]),
    )
    recipe = RECIPE.replace(learning_rates=LearningRatesConfig.of_all(0.01))
    settings = PretrainingSettings(PretrainingConfig(steps=20, queue_size=8), OBJECTIVES, recipe)
    pretrainer = Pretrainer(fusion, settings)
    first = float(pretrainer.accumulate_gradients(pairs, 0.4))
    for index in range(20):
        pretrainer.step(index, pairs, 0.4)
    assert float(pretrainer.accumulate_gradients(pairs, 0.4)) < 0.8 * first
