import random

import pytest
import torch
from torch.nn.functional import cross_entropy

from nas.fusion import PMF, base_features, build_supernet, extract
from nas.space import Architecture, SearchSpace
from tests.tiny import encoders, raw_batch

SPACE = SearchSpace(
    {
        "fusion_layer": (0, 1, 2),
        "query_prompts": (1, 2, 4),
        "query_context_prompts": (0, 1, 3),
        "fusion_context_prompts": (0, 2),
        "mapping_width": (2, 5, 9),
    }
)
SOME = [SPACE.smallest, SPACE.largest, *(SPACE.sample(random.Random(seed)) for seed in range(4))]


def supernet() -> PMF:
    image_encoder, text_encoder = encoders()
    return build_supernet(
        image_encoder=image_encoder, text_encoder=text_encoder, space=SPACE, class_count=5, seed=0
    ).double()


@pytest.mark.parametrize("architecture", SOME, ids=str)
def test_a_slice_and_a_stand_alone_copy_of_it_give_identical_logits(architecture: Architecture) -> None:
    whole = supernet()
    alone = extract(whole, architecture).double()
    pixels, ids, mask = raw_batch()
    features = base_features(*whole.encoders, architecture.fusion_layer, pixels, ids, mask)
    torch.testing.assert_close(whole(features, architecture), alone(features), rtol=0, atol=1e-12)


def test_a_step_of_one_architecture_moves_only_its_slice() -> None:
    whole, architecture = supernet(), Architecture(1, 2, 1, 2, 5)
    pixels, ids, mask = raw_batch()
    features = base_features(*whole.encoders, 1, pixels, ids, mask)
    cross_entropy(whole(features, architecture), torch.arange(5)).backward()
    assert all(parameter.grad is None for parameter in whole.fusion_layers[0].parameters())
    direction = whole.fusion_layers[1].image_to_text
    assert direction.query_prompts.grad[:2].abs().min() > 0 and direction.query_prompts.grad[2:].abs().max() == 0
    assert direction.outer.weight.grad[:, :5].abs().max() > 0 and direction.outer.weight.grad[:, 5:].abs().max() == 0


def test_the_seed_alone_decides_fresh_weights() -> None:
    torch.manual_seed(77)
    first = supernet().state_dict()
    torch.manual_seed(78)
    second = supernet().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
