import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from nas.common.errors import TrainingError
from nas.common.progress import LineReporter
from nas.config.load import load_config
from nas.config.schema import Config
from nas.data.features.store import FeatureSplit
from nas.models.fusion.base import Features
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.models.fusion.pmf.model import PMF
from nas.models.fusion.supernet import build_model, build_supernet
from nas.run.prepare import SearchContext, prepare
from nas.search.trial import job_seed
from nas.training.batches import BatchSchedule, Stopped
from nas.training.evaluate import predict_logits, predict_population
from nas.training.losses import Loss
from nas.training.trainer import Trainer, learning_rate_factor, train
from tests.support.project import Project
from tests.support.tiny import reads_at

ARCHITECTURE = PMFArchitecture(1, 2, 2, 1, 8)


@pytest.fixture(scope="module")
def config(project: Project) -> Config:
    return load_config(project.root / "search.yaml")


@pytest.fixture(scope="module")
def prepared(config: Config, tmp_path_factory: pytest.TempPathFactory) -> SearchContext:
    reporter = LineReporter(io.StringIO())
    return prepare(config, source="", cache_directory=tmp_path_factory.mktemp("cache"), reporter=reporter)


@pytest.fixture
def split(prepared: SearchContext) -> FeatureSplit:
    return prepared.store.splits["train"]


@pytest.fixture
def fresh(prepared: SearchContext) -> Callable[..., PMF]:
    def build(seed: int = 0) -> PMF:
        return build_model(
            image_encoder=prepared.image_encoder,
            text_encoder=prepared.text_encoder,
            architecture=ARCHITECTURE,
            num_classes=3,
            seed=seed,
        )

    return build


def test_every_sample_is_seen_once_an_epoch() -> None:
    schedule = BatchSchedule(sample_count=12, batch_size=4, seed=3)
    for epoch in range(3):
        seen = np.concatenate([schedule.indices(epoch * 3 + step) for step in range(3)])
        assert sorted(seen.tolist()) == list(range(12))
    assert schedule.indices(0).tolist() != schedule.indices(3).tolist()


def test_a_split_smaller_than_a_batch_is_one_batch() -> None:
    assert BatchSchedule(5, 8, 0).indices(2).size == 5


def test_a_weighted_batch_loss_is_the_weighted_sum_over_the_total_weight(
    split: FeatureSplit, config: Config, fresh: Callable[..., PMF]
) -> None:
    model, weights = fresh(), torch.tensor([0.5, 2.0, 1.0])
    trainer = Trainer(
        model=model, recipe=config.recipe, step_count=1, loss=Loss(weights, config.recipe.label_smoothing)
    )
    batch = split.batch([0, 1, 2, 3], reads_at(1))
    logits = model(Features(batch.image_tokens, batch.text_tokens, batch.text_mask)).detach()
    each = cross_entropy(logits, batch.labels, reduction="none")
    expected = (each * weights[batch.labels]).sum() / weights[batch.labels].sum()
    torch.testing.assert_close(
        trainer.accumulate_gradients([batch], trainer.loss.total_weight(batch.labels.numpy())), expected
    )


@pytest.mark.parametrize("count", [2, 3, 7, 50])
def test_micro_batches_give_the_gradients_of_the_whole_batch(
    split: FeatureSplit, config: Config, fresh: Callable[..., PMF], count: int
) -> None:
    recipe = replace(config.recipe, label_smoothing=0.1)
    samples = BatchSchedule(len(split), 7, seed=5).samples(split, 1)
    outcomes = []
    for parts in (1, count):
        trainer = Trainer(model=fresh(), recipe=recipe, step_count=1, loss=Loss(torch.tensor([0.5, 2.0, 1.0]), 0.1))
        weight = trainer.loss.total_weight(samples.labels)
        loss = trainer.accumulate_gradients(samples.parts(reads_at(1), parts), weight)
        outcomes.append((loss, [parameter.grad for parameter in trainer.model.parameters()]))
    (whole_loss, whole), (cut_loss, cut) = outcomes
    torch.testing.assert_close(cut_loss, whole_loss, rtol=1e-6, atol=0)
    for one, other in zip(whole, cut, strict=True):
        assert one is not None and other is not None
        assert (one - other).norm() <= 1e-6 * one.norm()


def test_micro_batches_differ_in_size_by_at_most_one_and_hold_every_sample_with_its_view() -> None:
    schedule = BatchSchedule(sample_count=12, batch_size=7, seed=3)
    ((indices, _, views),) = asked(schedule, 0, 1, view_count=4)
    parts = asked(schedule, 0, 1, view_count=4, count=3)
    assert [len(part[0]) for part in parts] == [3, 2, 2]
    assert [sample for part in parts for sample in part[0]] == indices
    assert [view for part in parts for view in part[2]] == views


def test_the_learning_rate_rises_then_falls_to_zero(config: Config) -> None:
    factors = [learning_rate_factor(step, 100, config.recipe) for step in range(100)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == 1.0
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[55] == pytest.approx(0.5, abs=0.01) and factors[99] < 0.001


def test_training_learns_what_can_be_learned(split: FeatureSplit, config: Config, fresh: Callable[..., PMF]) -> None:
    model = fresh()
    losses: list[float] = []
    train(
        model=model,
        split=split,
        recipe=config.recipe,
        step_count=40,
        seed=0,
        on_step=lambda step, loss: losses.append(loss),
    )
    accuracy = (predict_logits(model, split, batch_size=8).argmax(dim=1).numpy() == split.labels).mean()
    assert losses[-1] < losses[0] / 2 and accuracy > 0.9


def test_the_same_seed_gives_the_same_model_to_the_bit(
    split: FeatureSplit, config: Config, fresh: Callable[..., PMF]
) -> None:
    states = []
    for _ in range(2):
        torch.rand(5)  # the global generator plays no part
        model = fresh(seed=4)
        train(model=model, split=split, recipe=config.recipe, step_count=5, seed=9)
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_frozen_weights_stay_frozen(split: FeatureSplit, config: Config, fresh: Callable[..., PMF]) -> None:
    model = fresh()
    before = [parameter.clone() for encoder in model.encoders for parameter in encoder.parameters()]
    train(model=model, split=split, recipe=config.recipe, step_count=3, seed=0)
    after = [parameter for encoder in model.encoders for parameter in encoder.parameters()]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_evaluation_does_not_depend_on_how_samples_are_grouped(split: FeatureSplit, fresh: Callable[..., PMF]) -> None:
    model = fresh()
    together = predict_logits(model, split, batch_size=8)
    for index in (0, 7, len(split) - 1):
        batch = split.batch([index], reads_at(ARCHITECTURE.fusion_layer))
        alone = model(Features(batch.image_tokens, batch.text_tokens, batch.text_mask)).detach()
        torch.testing.assert_close(together[index : index + 1], alone, rtol=0, atol=1e-5)


def test_a_training_can_be_stopped(split: FeatureSplit, config: Config, fresh: Callable[..., PMF]) -> None:
    done: list[int] = []
    with pytest.raises(Stopped):
        train(
            model=fresh(),
            split=split,
            recipe=config.recipe,
            step_count=9,
            seed=0,
            should_stop=lambda: len(done) == 2,
            on_step=lambda step, loss: done.append(step),
        )
    assert done == [1, 2]


def test_a_loss_that_is_not_finite_stops_the_training(
    split: FeatureSplit, config: Config, fresh: Callable[..., PMF]
) -> None:
    model = fresh()
    with torch.no_grad():
        model.image_classifier.bias.fill_(float("nan"))
    with pytest.raises(TrainingError, match="the loss is nan at step 0"):
        train(model=model, split=split, recipe=config.recipe, step_count=1, seed=0)


def test_seeds_differ_by_stage_architecture_and_seed() -> None:
    other = PMFArchitecture(2, 2, 2, 1, 8)
    seeds = {
        job_seed(0, "full", ARCHITECTURE),
        job_seed(1, "full", ARCHITECTURE),
        job_seed(0, "short", ARCHITECTURE),
        job_seed(0, "full", other),
    }
    assert len(seeds) == 4
    assert job_seed(0, "short", ARCHITECTURE) == job_seed(0, "short", other)  # one order for all
    assert job_seed(0, "short", ARCHITECTURE) != job_seed(1, "short", ARCHITECTURE)


MIXED = [
    PMFArchitecture(2, 1, 0, 1, 4),
    PMFArchitecture(0, 2, 2, 0, 8),
    PMFArchitecture(1, 2, 0, 1, 8),
    PMFArchitecture(0, 1, 2, 1, 4),
    PMFArchitecture(2, 2, 2, 0, 8),
    PMFArchitecture(1, ((1, 2), (2, 1)), ((0, 2), (1, 0)), ((1, 0), (0, 1)), ((4, 8), (2, 3))),
]


@pytest.fixture
def supernet(prepared: SearchContext, config: Config) -> PMF:
    return build_supernet(
        image_encoder=prepared.image_encoder,
        text_encoder=prepared.text_encoder,
        space=config.space,
        num_classes=3,
        seed=1,
    )


def test_a_population_of_any_fusion_layers_gets_its_logits_in_the_splits_order(
    split: FeatureSplit, supernet: PMF
) -> None:
    assert (np.diff(split.text_lengths) < 0).any()  # evaluation takes samples in another order
    outcome = predict_population(supernet, split, MIXED, batch_size=7)
    assert len(outcome) == len(MIXED)
    for architecture, logits in zip(MIXED, outcome, strict=True):
        assert logits.shape == (len(split), 3)
        for index in range(len(split)):
            batch = split.batch([index], reads_at(architecture.fusion_layer))
            alone = supernet(Features(batch.image_tokens, batch.text_tokens, batch.text_mask), architecture).detach()
            torch.testing.assert_close(logits[index : index + 1], alone, rtol=0, atol=1e-5)


def test_an_architectures_logits_are_the_same_to_the_bit_in_every_population(
    split: FeatureSplit, supernet: PMF
) -> None:
    together = predict_population(supernet, split, MIXED, batch_size=7)
    backwards = predict_population(supernet, split, MIXED[::-1], batch_size=7)[::-1]
    for architecture, logits, other in zip(MIXED, together, backwards, strict=True):
        alone = predict_logits(supernet, split, batch_size=7, architecture=architecture)
        assert torch.equal(logits, other) and torch.equal(logits, alone)


def test_a_population_can_be_stopped(split: FeatureSplit, supernet: PMF) -> None:
    asked: list[bool] = []

    def should_stop() -> bool:
        asked.append(len(asked) == 2)
        return asked[-1]

    with pytest.raises(Stopped):
        predict_population(supernet, split, MIXED, batch_size=7, should_stop=should_stop)
    assert len(asked) == 3


class AskedSplit:
    """Gives what it was asked for instead of features."""

    def __init__(self, view_count: int) -> None:
        self.view_count = view_count

    def batch(
        self, indices: NDArray[np.int64], fusion_layer: int, views: NDArray[np.int64] | None = None
    ) -> tuple[list[int], int, list[int] | None]:
        return indices.tolist(), fusion_layer, None if views is None else views.tolist()


def asked(schedule: BatchSchedule, step: int, fusion_layer: int, view_count: int, count: int = 1) -> list[Any]:
    """What a batch, in so many parts, asks of its split."""
    return list(schedule.samples(cast(FeatureSplit, AskedSplit(view_count)), step).parts(fusion_layer, count))


def views_of_an_epoch(schedule: BatchSchedule, epoch: int, view_count: int = 4) -> dict[int, int]:
    """View of every sample."""
    drawn: dict[int, int] = {}
    for step in range(epoch * schedule.steps_per_epoch, (epoch + 1) * schedule.steps_per_epoch):
        ((indices, _, views),) = asked(schedule, step, 1, view_count)
        drawn.update(zip(indices, views, strict=True))
    return drawn


def test_a_batch_asks_for_no_view_where_images_have_but_one() -> None:
    schedule = BatchSchedule(sample_count=12, batch_size=4, seed=3)
    assert asked(schedule, 4, 2, view_count=1) == [(schedule.indices(4).tolist(), 2, None)]


def test_a_batch_draws_a_view_of_each_of_its_images() -> None:
    schedule = BatchSchedule(sample_count=12, batch_size=4, seed=3)
    ((indices, fusion_layer, views),) = asked(schedule, 4, 2, view_count=5)
    assert indices == schedule.indices(4).tolist() and fusion_layer == 2
    assert len(views) == 4 and all(0 <= view < 5 for view in views)


def test_views_depend_on_the_seed_and_the_epoch_alone() -> None:
    drawn = views_of_an_epoch(BatchSchedule(40, 8, seed=3), epoch=1)
    assert drawn == views_of_an_epoch(BatchSchedule(40, 8, seed=3), epoch=1)
    # The batches are others, the view of a sample is not.
    assert drawn == views_of_an_epoch(BatchSchedule(40, 10, seed=3), epoch=1)
    assert drawn != views_of_an_epoch(BatchSchedule(40, 8, seed=3), epoch=2)
    assert drawn != views_of_an_epoch(BatchSchedule(40, 8, seed=4), epoch=1)


def test_every_view_is_drawn_about_as_often() -> None:
    drawn = [*views_of_an_epoch(BatchSchedule(4000, 500, seed=0), epoch=0).values()]
    assert np.bincount(drawn, minlength=4) == pytest.approx(1000, rel=0.1)
