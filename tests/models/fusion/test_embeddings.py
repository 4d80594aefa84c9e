"""The contract of families that embed pictures and texts apart from each other."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nas.config.retrieval import retrieval_families
from nas.models.fusion.base import Features, FusionModel, features_of
from nas.models.fusion.embeddings import model_outputs, pair_embedder
from nas.models.fusion.supernet import build_model, build_supernet, extract
from nas.search.space import SearchSpace
from nas.search.space.family_registry import load_architecture_class
from nas.training.contrastive import contrastive_sum
from tests.models.fusion.test_contract import SPACES
from tests.support.tiny import raw_batch
from tests.support.tiny_clip import pair_for

BATCH = raw_batch(5)


def supernet_of(space: SearchSpace) -> FusionModel:
    image, text = pair_for(space.architecture_class.family)
    model = build_supernet(image_encoder=image, text_encoder=text, space=space, num_classes=0, seed=3)
    return model.to(next(image.parameters()).dtype)


def features_for(model: FusionModel) -> Features:
    pixels, ids, mask = BATCH
    return features_of(model.encoders, model.entry_layers(), pixels.to(model.encoders[0].dtype), ids, mask)


@pytest.fixture(params=retrieval_families())
def space(request: pytest.FixtureRequest) -> SearchSpace:
    return SPACES[request.param]


def test_model_without_classes_has_no_classifier_and_trains_all_weights(space: SearchSpace) -> None:
    model = supernet_of(space)
    assert not [name for name, _ in model.named_parameters() if "classifier" in name]
    images, texts = pair_embedder(model).contrastive_embeddings(features_for(model))
    for side in (images, texts):
        torch.testing.assert_close(side.norm(dim=1), torch.ones(5, dtype=side.dtype))
    temperature = pair_embedder(model).temperature
    assert temperature.shape == () and float(temperature.detach()) > 0
    loss = contrastive_sum(images, texts, temperature, torch.eye(5, dtype=torch.bool))
    if loss.requires_grad:  # unless nothing is trained
        loss.backward()
    lacking = [name for name, entry in model.named_parameters() if entry.grad is None]
    assert lacking == [], "every weight has a gradient"


def test_embeddings_of_one_side_do_not_depend_on_the_other(space: SearchSpace) -> None:
    model = supernet_of(space)
    features = features_for(model)
    images, texts = pair_embedder(model).contrastive_embeddings(features)
    fewer = replace(features, image_tokens=features.image_tokens[:2])
    torch.testing.assert_close(pair_embedder(model).contrastive_embeddings(fewer)[0], images[:2])
    torch.testing.assert_close(pair_embedder(model).contrastive_embeddings(fewer)[1], texts)
    one = replace(features, text_tokens=features.text_tokens[:1], text_mask=None, text_places=None)
    torch.testing.assert_close(pair_embedder(model).contrastive_embeddings(one)[0], images)
    torch.testing.assert_close(pair_embedder(model).contrastive_embeddings(one)[1], texts[:1])


def test_slices_are_standalone_models(space: SearchSpace) -> None:
    supernet = supernet_of(space)
    features = features_for(supernet)

    def outputs(model: FusionModel) -> list[Tensor]:
        return model_outputs(model, features, [space.smallest])

    alone = extract(supernet, space.smallest).to(supernet.encoders[0].dtype)
    torch.testing.assert_close(outputs(supernet), outputs(alone))


def test_other_families_embed_no_pairs() -> None:
    image, text = pair_for("late_concat")
    architecture = load_architecture_class("late_concat").default(supernet_of(SPACES["vse"]).sizes)
    model = build_model(image_encoder=image, text_encoder=text, architecture=architecture, num_classes=2, seed=0)
    with pytest.raises(TypeError, match="late_concat model: embeds no pairs; expected one of a family that sets"):
        pair_embedder(model)
