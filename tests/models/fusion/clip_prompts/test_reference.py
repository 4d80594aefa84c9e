"""Deep prompts compared with the definition of their paper, for every gene."""

import itertools
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from nas.models.encoders.base import Encoder
from nas.models.fusion.base import FusionModel, features_of
from nas.models.fusion.clip_prompts.architecture import BRANCHES, COUPLINGS
from nas.models.fusion.maple.architecture import MaPLeArchitecture
from nas.models.fusion.supernet import build_model, build_supernet, extract
from nas.models.fusion.vpt_clip.architecture import VPTCLIPArchitecture
from nas.search.space import Architecture, SearchSpace
from tests.models.fusion.clip_prompts.reference import maple_logits
from tests.support.tiny_clip import START, class_texts, clip_pair
from tests.support.tiny_families import END

CLASSES = 3
TEXTS = class_texts(CLASSES)
LENGTHS = (1, 2, 5)
"""Fewer prompts than words before the label, and more."""


@pytest.fixture(scope="module")
def encoders() -> tuple[Encoder, Encoder]:
    return clip_pair()


def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(2, 3, 16, 16, generator=generator, dtype=torch.float64)
    ids = torch.tensor([[START, 21, 22, 23, END], [START, 24, END, END, END]])
    mask = torch.arange(5)[None] < torch.tensor([5, 3])[:, None]
    return pixels, ids, mask


def built(encoders: tuple[Encoder, Encoder], architecture: Architecture) -> FusionModel:
    image, text = encoders
    model = build_model(
        image_encoder=image,
        text_encoder=text,
        architecture=architecture,
        num_classes=CLASSES,
        seed=2,
        class_texts=TEXTS,
    ).double()
    torch.manual_seed(3)
    with torch.no_grad():  # as after training
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def logits_of(model: FusionModel, *, whole: bool = False) -> Tensor:
    logits: Tensor = model(features_of(model.encoders, model.entry_layers(), *batch(), whole_layers=whole))
    return logits


def described(architecture: Architecture, message: str) -> str:
    return f"{architecture}: {message}"


SPACE = SearchSpace(
    MaPLeArchitecture,
    {
        "prompt_depth": (1, 2, 3),
        "prompt_length": LENGTHS,
        "branches": tuple(range(len(BRANCHES))),
        "coupling": tuple(range(len(COUPLINGS))),
        "initial_text": (0, 1),
        "sample_text": (0, 1),
    },
)
VPT_SPACE = SearchSpace(
    VPTCLIPArchitecture, {"prompt_depth": (1, 2, 3, 4), "prompt_length": LENGTHS, "sample_text": (0, 1)}
)


@pytest.mark.parametrize(("depth", "length"), list(itertools.product((1, 2, 3, 4), LENGTHS)))
def test_logits_and_gradients_equal_the_papers_definition(
    encoders: tuple[Encoder, Encoder], depth: int, length: int
) -> None:
    sizes = {"prompt_depth": depth, "prompt_length": length}
    architectures = [entry for entry in (*SPACE, *VPT_SPACE) if {**entry.values(), **sizes} == entry.values()]
    assert len(architectures) == (2 if depth == 4 else (2 * 2 + 2 + 2 + 1) * 2 + 2)
    # A third of them by turns, so that each kind of model has every depth and every length.
    for architecture in architectures[(depth + LENGTHS.index(length)) % 3 :: 3]:
        model = built(encoders, architecture)
        expected = maple_logits(model, encoders[0].model, encoders[1].model, *batch())
        upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        got, named = logits_of(model), partial(described, architecture)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-9, msg=named)
        with torch.no_grad():
            torch.testing.assert_close(logits_of(model, whole=True), expected, rtol=0, atol=1e-9, msg=named)
        gradients = torch.autograd.grad(expected, list(model.parameters()), upstream)
        for found, gradient in zip(
            torch.autograd.grad(got, list(model.parameters()), upstream), gradients, strict=True
        ):
            torch.testing.assert_close(found, gradient, rtol=1e-9, atol=1e-9, msg=named)
            assert bool(gradient.any())


def test_slices_of_every_kind_equal_standalone_models(encoders: tuple[Encoder, Encoder]) -> None:
    image, text = encoders
    supernet = build_supernet(
        image_encoder=image, text_encoder=text, space=SPACE, num_classes=CLASSES, seed=2, class_texts=TEXTS
    ).double()
    for largest in SPACE.largest_of_each_kind:
        architecture: Architecture = replace(largest, prompt_depth=2, prompt_length=2)  # type: ignore[type-var]
        alone = extract(supernet, architecture).double()
        features = features_of(encoders, supernet.entry_layers(architecture), *batch())
        logits = supernet(features, architecture)
        torch.testing.assert_close(logits, alone(features), rtol=0, atol=1e-12)
        supernet.zero_grad(set_to_none=True)
        torch.autograd.backward(logits.square().sum())
        trained = {id(entry) for entry in supernet.parameters() if entry.grad is not None and bool(entry.grad.any())}
        used = supernet.used_parameters(architecture)
        assert trained == {id(entry) for entry in used} and len(used) == len(trained), architecture


def test_first_prompts_start_from_the_words_of_the_template(encoders: tuple[Encoder, Encoder]) -> None:
    words = encoders[1].token_vectors(TEXTS.ids[0, 0, 1:4]).float()
    for length in (2, 5):
        model: Any = build_model(
            image_encoder=encoders[0],
            text_encoder=encoders[1],
            architecture=MaPLeArchitecture(2, length),
            num_classes=CLASSES,
            seed=2,
            class_texts=TEXTS,
        )
        first, second = model.text_prompts
        assert torch.equal(first[:3], words[:length])
        rest = torch.cat([first[3:], second]).detach()
        assert 0.01 < float(rest.std()) < 0.03


def test_constant_class_texts_are_computed_once_and_after_a_change(
    encoders: tuple[Encoder, Encoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    text: Any = encoders[1]
    model, calls, embed = built(encoders, VPTCLIPArchitecture(2, 2)), [], text.embed

    def counted(ids: Tensor) -> Tensor:
        calls.append(ids.shape)
        rows: Tensor = embed(ids)
        return rows

    monkeypatch.setattr(text, "embed", counted)
    with torch.inference_mode():
        before = logits_of(model)
    logits = logits_of(model)
    torch.autograd.backward(logits.sum())  # what the inference mode left can be part of a graph
    assert torch.equal(logits, before) and len(calls) == 1
    weight = text.model.embeddings.token_embedding.weight
    kept = weight.clone()
    try:
        weight.neg_()
        assert not torch.equal(logits_of(model), before) and len(calls) == 2
    finally:
        weight.copy_(kept)
    assert torch.equal(logits_of(model), before) and len(calls) == 3


def test_class_texts_with_prompts_are_computed_again_after_a_step(
    encoders: tuple[Encoder, Encoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    text: Any = encoders[1]
    model, calls, embed = built(encoders, MaPLeArchitecture(2, 2, BRANCHES.index("language"))), [], text.embed

    def counted(ids: Tensor) -> Tensor:
        calls.append(ids.shape)
        rows: Tensor = embed(ids)
        return rows

    monkeypatch.setattr(text, "embed", counted)
    with torch.no_grad():
        before = logits_of(model)
        assert torch.equal(logits_of(model), before) and len(calls) == 1  # two batches of an evaluation
    logits = logits_of(model)
    assert torch.equal(logits, before) and logits.requires_grad and len(calls) == 2
    torch.autograd.backward(logits.square().sum())
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    with torch.no_grad():
        changed = logits_of(model)
        assert not torch.equal(changed, before) and len(calls) == 3
    expected = maple_logits(model, encoders[0].model, text.model, *batch())
    torch.testing.assert_close(changed, expected, rtol=0, atol=1e-9)


def test_depth_beyond_the_layers_is_rejected(encoders: tuple[Encoder, Encoder]) -> None:
    for architecture, largest in ((MaPLeArchitecture(4, 2), 3), (VPTCLIPArchitecture(5, 2), 4)):
        with pytest.raises(ValueError, match=f"prompt_depth: out of range .* expected 1 to {largest}, got"):
            built(encoders, architecture)
