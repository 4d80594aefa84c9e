"""Logits of single architectures and of populations."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from nas.config.schema import Config
from nas.data.features.store import FeatureSplit
from nas.models.fusion.base import Features, FusionModel
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.models.fusion.supernet import build_supernet
from nas.run.prepare import SearchContext
from nas.training.evaluate import predict_logits, predict_population
from nas.training.stopping import StopRequested
from tests.support.tiny import reads_at

ARCHITECTURES = [
    PMFArchitecture(2, 1, 0, 1, 4),
    PMFArchitecture(0, 2, 2, 0, 8),
    PMFArchitecture(1, 2, 0, 1, 8),
    PMFArchitecture(0, 1, 2, 1, 4),
    PMFArchitecture(2, 2, 2, 0, 8),
    PMFArchitecture(1, ((1, 2), (2, 1)), ((0, 2), (1, 0)), ((1, 0), (0, 1)), ((4, 8), (2, 3))),
]


@pytest.fixture
def supernet(prepared: SearchContext, config: Config) -> FusionModel:
    return build_supernet(
        image_encoder=prepared.image_encoder,
        text_encoder=prepared.text_encoder,
        space=config.space,
        num_classes=3,
        seed=1,
    )


def test_logits_do_not_depend_on_the_batches(split: FeatureSplit, fresh: Callable[..., FusionModel]) -> None:
    model = fresh()
    logits = predict_logits(model, split, batch_size=8)
    for index in (0, 7, len(split) - 1):
        batch = split.batch([index], reads_at(model.architecture.first_layer))
        single = model(Features(batch.image_tokens, batch.text_tokens, batch.text_mask)).detach()
        torch.testing.assert_close(logits[index : index + 1], single, rtol=0, atol=1e-5)


def test_population_logits_are_in_the_order_of_the_split(split: FeatureSplit, supernet: FusionModel) -> None:
    assert (np.diff(split.text_lengths) < 0).any()  # so that evaluation reorders the samples
    outcome = predict_population(supernet, split, ARCHITECTURES, batch_size=7)
    assert len(outcome) == len(ARCHITECTURES)
    for architecture, logits in zip(ARCHITECTURES, outcome, strict=True):
        assert logits.shape == (len(split), 3)
        for index in range(len(split)):
            batch = split.batch([index], reads_at(architecture.first_layer))
            single = supernet(Features(batch.image_tokens, batch.text_tokens, batch.text_mask), architecture).detach()
            torch.testing.assert_close(logits[index : index + 1], single, rtol=0, atol=1e-5)


def test_logits_of_an_architecture_do_not_depend_on_the_population(split: FeatureSplit, supernet: FusionModel) -> None:
    population = predict_population(supernet, split, ARCHITECTURES, batch_size=7)
    reversed_population = predict_population(supernet, split, ARCHITECTURES[::-1], batch_size=7)[::-1]
    for architecture, logits, other in zip(ARCHITECTURES, population, reversed_population, strict=True):
        single = predict_logits(supernet, split, batch_size=7, architecture=architecture)
        assert torch.equal(logits, other) and torch.equal(logits, single)


def test_evaluation_of_a_population_can_be_stopped(split: FeatureSplit, supernet: FusionModel) -> None:
    calls: list[bool] = []

    def should_stop() -> bool:
        calls.append(len(calls) == 2)
        return calls[-1]

    with pytest.raises(StopRequested):
        predict_population(supernet, split, ARCHITECTURES, batch_size=7, should_stop=should_stop)
    assert len(calls) == 3
