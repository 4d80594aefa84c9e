"""Slices of the supernet: equal to standalone models, trained one at a time, evaluated together."""

import random
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from nas.models.encoders.bert import BertEncoder
from nas.models.encoders.vit import ViTEncoder
from nas.models.fusion.pmf.architecture import GENES, PMFArchitecture
from nas.models.fusion.pmf.model import PMF
from nas.models.fusion.supernet import build_supernet, extract
from nas.search.space import Architecture, SearchSpace
from tests.support.tiny import base_features, bert_model, raw_batch, vit_model

CHOICES = {
    "fusion_layer": (0, 1, 2),
    "query_prompts": (1, 2, 4),
    "query_context_prompts": (0, 1, 3),
    "fusion_context_prompts": (0, 2),
    "mapping_width": (2, 5, 9),
    "image_readout": (0, 1),
    "text_readout": (0, 1),
}
SPACE = SearchSpace(PMFArchitecture, CHOICES)
FREE = SearchSpace(PMFArchitecture, CHOICES, dict.fromkeys(GENES[1:], "layer_and_direction"), num_layers=3)
SOME = [
    SPACE.smallest,
    SPACE.largest,
    *(SPACE.sample(random.Random(seed)) for seed in range(4)),
    *(FREE.sample(random.Random(seed)) for seed in range(8)),
    PMFArchitecture(1, 0, 1, 2, 5),  # no message
    PMFArchitecture(0, 2, 3, 0, 0),  # no mapping
    PMFArchitecture(1, ((0, 2), (1, 0)), 3, ((0, 0), (2, 1)), ((5, 0), (0, 9))),
]


def supernet(dtype: torch.dtype = torch.float64) -> PMF:
    model = build_supernet(
        image_encoder=ViTEncoder(vit_model(dtype=dtype)),
        text_encoder=BertEncoder(bert_model(dtype=dtype)),
        space=SPACE,
        num_classes=5,
        seed=0,
    )
    assert isinstance(model, PMF)
    return model.to(dtype)


@pytest.mark.parametrize("architecture", SOME, ids=str)
def test_slice_and_its_standalone_copy_give_identical_logits(architecture: Architecture) -> None:
    whole = supernet()
    alone = extract(whole, architecture).double()
    pixels, ids, mask = raw_batch()
    features = base_features(*whole.encoders, architecture.first_layer, pixels, ids, mask)
    torch.testing.assert_close(whole(features, architecture), alone(features), rtol=0, atol=1e-12)


def test_training_one_architecture_changes_only_its_slice() -> None:
    whole, architecture = supernet(), PMFArchitecture(1, 2, 1, 2, 5)
    pixels, ids, mask = raw_batch()
    features = base_features(*whole.encoders, 1, pixels, ids, mask)
    cross_entropy(whole(features, architecture), torch.arange(5)).backward()
    assert all(parameter.grad is None for parameter in whole.fusion_layers[0].parameters())
    direction: Any = whole.fusion_layers[1].image_to_text
    assert direction.query_prompts.grad[:2].abs().min() > 0 and direction.query_prompts.grad[2:].abs().max() == 0
    assert direction.outer.weight.grad[:, :5].abs().max() > 0 and direction.outer.weight.grad[:, 5:].abs().max() == 0


@pytest.mark.parametrize("architecture", SOME[-3:], ids=str)
def test_exactly_the_used_parameters_get_gradients_where_parts_are_left_out(architecture: Architecture) -> None:
    whole = supernet()
    features = base_features(*whole.encoders, architecture.first_layer, *raw_batch())
    cross_entropy(whole(features, architecture), torch.arange(5)).backward()
    got = {name for name, parameter in whole.named_parameters() if parameter.grad is not None}
    used = {id(parameter) for parameter in whole.used_parameters(architecture)}
    assert got == {name for name, parameter in whole.named_parameters() if id(parameter) in used}


def test_initial_weights_depend_only_on_the_seed() -> None:
    torch.manual_seed(77)
    first = supernet().state_dict()
    torch.manual_seed(78)
    second = supernet().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


OF_EVERY_LAYER = [
    *(PMFArchitecture(layer, 4, 3, 2, 9) for layer in (0, 1, 2)),
    *(PMFArchitecture(layer, 1, 0, 0, 2) for layer in (0, 1, 2)),
    *(PMFArchitecture(layer, 2, 1, 2, 5) for layer in (0, 1, 2)),
    *(PMFArchitecture(layer, 2, 1, 2, 5, layer % 2, 1) for layer in (0, 1, 2)),
    *(FREE.sample(random.Random(seed)) for seed in range(8)),
    PMFArchitecture(1, 0, 1, 2, 5),  # no message
    PMFArchitecture(0, 2, 3, 0, 0),  # no mapping
    PMFArchitecture(1, ((0, 2), (1, 0)), 3, ((0, 0), (2, 1)), ((5, 0), (0, 9))),
]


@pytest.mark.parametrize("is_padded", [True, False])
@pytest.mark.parametrize("fusion_layer", [0, 1, 2])
def test_population_logits_equal_those_of_each_architecture(fusion_layer: int, is_padded: bool) -> None:
    whole = supernet()
    pixels, ids, mask = raw_batch()
    features = base_features(*whole.encoders, fusion_layer, pixels, ids, mask if is_padded else None)
    together = [entry for entry in OF_EVERY_LAYER if entry.first_layer == fusion_layer]
    outcome = whole.population_logits(features, together)
    assert len(outcome) == len(together)
    for architecture, logits in zip(together, outcome, strict=True):
        assert not logits.requires_grad
        torch.testing.assert_close(logits, whole(features, architecture), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("fusion_layer", [0, 1, 2])
def test_population_logits_do_not_depend_on_the_rest_of_the_population(fusion_layer: int, kind: torch.dtype) -> None:
    whole = supernet(kind)
    features = base_features(*whole.encoders, fusion_layer, *raw_batch())
    together = [entry for entry in OF_EVERY_LAYER if entry.first_layer == fusion_layer]
    outcome = whole.population_logits(features, together)
    backwards = whole.population_logits(features, together[::-1])[::-1]
    for architecture, logits, other in zip(together, outcome, backwards, strict=True):
        (alone,) = whole.population_logits(features, [architecture])
        assert torch.equal(logits, alone) and torch.equal(logits, other)
