"""Families that compare images with the texts of the classes, beyond the contract of every family."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nas.models.class_texts import ClassTexts
from nas.models.encoders.base import Encoder
from nas.models.encoders.checkpoints import load_encoder
from nas.models.fusion.base import FusionModel
from nas.models.fusion.clip_zero_shot.architecture import CLIPZeroShotArchitecture
from nas.models.fusion.coop.architecture import CoOpArchitecture
from nas.models.fusion.supernet import build_model
from nas.search.space import Architecture
from tests.models.fusion.test_contract import ORACLES, fresh, logits_of, space_of
from tests.support.tiny import raw_batch
from tests.support.tiny_clip import class_texts, clip_pair, pair_for
from tests.support.tiny_families import clip_model

TEXTS = class_texts()
FIRST = ClassTexts(TEXTS.ids[:1], TEXTS.mask[:1], TEXTS.prefixes[:1])


def built(
    architecture: Architecture, pair: tuple[Encoder, Encoder], texts: ClassTexts | None = TEXTS, num_classes: int = 5
) -> FusionModel:
    image, text = pair
    model = build_model(
        image_encoder=image,
        text_encoder=text,
        architecture=architecture,
        num_classes=num_classes,
        seed=0,
        class_texts=texts,
    )
    return model.to(next(image.parameters()).dtype)


def test_zero_shot_logits_are_those_of_transformers(tmp_path: Path) -> None:
    model = clip_model()
    model.save_pretrained(tmp_path)
    folder, (pixels, _, _) = str(tmp_path), raw_batch()
    pair = load_encoder(folder, "image", has_head=True), load_encoder(folder, "text", has_head=True)
    ids, mask, pixels = TEXTS.ids, TEXTS.mask.long(), pixels.float()
    with torch.no_grad():
        expected = model(input_ids=ids[0], attention_mask=mask[0], pixel_values=pixels).logits_per_image
    found = built(CLIPZeroShotArchitecture(), pair, FIRST)
    batch = pixels, torch.zeros(len(pixels), 1, dtype=torch.int64), None
    torch.testing.assert_close(logits_of(found, *batch), expected, rtol=0, atol=1e-5)
    # With two templates, the mean of the normalized embeddings is normalized again.
    with torch.no_grad():
        texts = [_features(model.get_text_features(*given)) for given in zip(ids, mask, strict=True)]
        mean = torch.stack(texts).mean(dim=0)
        image = _features(model.get_image_features(pixels))
        expected = model.logit_scale.exp() * image @ (mean / mean.norm(dim=1, keepdim=True)).T
    torch.testing.assert_close(logits_of(built(CLIPZeroShotArchitecture(), pair), *batch), expected, rtol=0, atol=1e-5)


def _features(found: Any) -> Tensor:
    vectors = getattr(found, "pooler_output", found)
    normalized: Tensor = vectors / vectors.norm(dim=1, keepdim=True)
    return normalized


def test_every_coop_equals_its_definition() -> None:
    pair, raw = clip_pair(), raw_batch()
    for architecture in space_of("coop"):
        model = fresh("coop", architecture, pair)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        found, expected = logits_of(model, *raw), ORACLES["coop"](model, pair[0].model, pair[1].model, *raw)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
        upstream, trained = torch.randn_like(found), list(model.parameters())
        gradients = (torch.autograd.grad(logits, trained, upstream) for logits in (found, expected))
        for gradient, other in zip(*gradients, strict=True):
            torch.testing.assert_close(gradient, other, rtol=0, atol=1e-9)


@pytest.mark.parametrize("length", [1, 3])
def test_learned_words_start_from_those_of_the_template(length: int) -> None:
    pair, raw = clip_pair(torch.float32), raw_batch()
    given = raw[0].float(), *raw[1:]
    for sample_text in (0, 1):
        expected = logits_of(built(CLIPZeroShotArchitecture(sample_text), pair, FIRST), *given)
        found = logits_of(built(CoOpArchitecture(length, sample_text=sample_text), pair), *given)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    different = logits_of(built(CoOpArchitecture(length, initial_text=1), pair), *given)
    assert not torch.allclose(different, logits_of(built(CoOpArchitecture(length), pair), *given), atol=1e-2)


def test_models_that_do_not_fit_are_rejected() -> None:
    pair, architecture = clip_pair(), CoOpArchitecture(4)
    with pytest.raises(ValueError, match="coop model: the encoders have no common space; expected both"):
        built(architecture, pair_for("pmf"))
    with pytest.raises(ValueError, match="class texts: expected those of 4 classes, got 5"):
        built(architecture, pair, num_classes=4)
    with pytest.raises(ValueError, match="class texts: expected at most 20 tokens, got 21"):
        built(CoOpArchitecture(3 + 21 - TEXTS.longest), pair)
    with pytest.raises(ValueError, match="class texts: missing; expected those of the classes"):
        logits_of(built(architecture, pair, None), *raw_batch())


def test_class_texts_are_restored_from_plain_values() -> None:
    values = TEXTS.as_dict()
    assert values["ids"][0][0] == [48, 5, 6, 7, 20, 49] and values["prefixes"] == [3, 1]
    with torch.device("meta"):
        found = ClassTexts.from_dict(values)
    assert torch.equal(found.ids, TEXTS.ids) and torch.equal(found.mask, TEXTS.mask)
    assert found.prefixes == TEXTS.prefixes and repr(found) == repr(TEXTS)
