"""Training of a standalone model: loss, micro-batches, schedule, stops."""

from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import cross_entropy

from nas.common.errors import TrainingError
from nas.config.schema import Config
from nas.data.features.store import FeatureSplit
from nas.models.fusion.base import Features, FusionModel
from nas.models.fusion.pmf.model import PMF
from nas.training.batches import BatchSchedule
from nas.training.evaluate import predict_logits
from nas.training.losses import Loss
from nas.training.soft_targets import SoftTargets
from nas.training.stopping import StopRequested
from nas.training.trainer import Steps, Trainer, learning_rate_factor, train, train_steps
from tests.support.tiny import reads_at


def test_batch_loss_is_the_weighted_sum_divided_by_the_total_weight(
    split: FeatureSplit, config: Config, fresh: Callable[..., FusionModel]
) -> None:
    model, weights = fresh(), torch.tensor([0.5, 2.0, 1.0])
    trainer = Trainer(
        model=model, recipe=config.recipe, step_count=1, loss=Loss(weights, config.recipe.label_smoothing)
    )
    batch = split.batch([0, 1, 2, 3], reads_at(1))
    logits = model(Features(batch.image_tokens, batch.text_tokens, batch.text_mask)).detach()
    losses = cross_entropy(logits, batch.labels, reduction="none")
    expected = (losses * weights[batch.labels]).sum() / weights[batch.labels].sum()
    torch.testing.assert_close(
        trainer.accumulate_gradients([batch], trainer.loss.total_weight(batch.labels.numpy())), expected
    )


@pytest.mark.parametrize("count", [2, 3, 7, 50])
def test_micro_batches_give_the_gradients_of_the_whole_batch(
    split: FeatureSplit, config: Config, fresh: Callable[..., FusionModel], count: int
) -> None:
    recipe = config.recipe.replace(label_smoothing=0.1)
    batch = BatchSchedule(len(split), 7, seed=5).select(split, 1)
    outcomes = []
    for micro_batches in (1, count):
        trainer = Trainer(model=fresh(), recipe=recipe, step_count=1, loss=Loss(torch.tensor([0.5, 2.0, 1.0]), 0.1))
        weight = trainer.loss.total_weight(batch.labels)
        loss = trainer.accumulate_gradients(batch.read(reads_at(1), micro_batches), weight)
        outcomes.append((loss, [parameter.grad for parameter in trainer.model.parameters()]))
    (whole_loss, whole), (divided_loss, divided) = outcomes
    torch.testing.assert_close(divided_loss, whole_loss, rtol=1e-6, atol=0)
    for one, other in zip(whole, divided, strict=True):
        assert one is not None and other is not None
        assert (one - other).norm() <= 1e-6 * one.norm()


def test_learning_rate_rises_then_decays_to_zero(config: Config) -> None:
    factors = [learning_rate_factor(step, 100, config.recipe) for step in range(100)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == 1.0
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[55] == pytest.approx(0.5, abs=0.01) and factors[99] < 0.001


def test_training_reaches_a_high_accuracy(
    split: FeatureSplit, config: Config, fresh: Callable[..., FusionModel]
) -> None:
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


def test_same_seed_gives_the_same_model_to_the_bit(
    split: FeatureSplit, config: Config, fresh: Callable[..., FusionModel]
) -> None:
    states = []
    for _ in range(2):
        torch.rand(5)  # the global generator must not matter
        model = fresh(seed=4)
        train(model=model, split=split, recipe=config.recipe, step_count=5, seed=9)
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_frozen_weights_stay_frozen(split: FeatureSplit, config: Config, fresh: Callable[..., FusionModel]) -> None:
    model = fresh()
    before = [parameter.clone() for encoder in model.encoders for parameter in encoder.parameters()]
    train(model=model, split=split, recipe=config.recipe, step_count=3, seed=0)
    after = [parameter for encoder in model.encoders for parameter in encoder.parameters()]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_training_can_be_stopped(split: FeatureSplit, config: Config, fresh: Callable[..., FusionModel]) -> None:
    done: list[int] = []
    with pytest.raises(StopRequested):
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


def test_non_finite_loss_is_an_error(split: FeatureSplit, config: Config, fresh: Callable[..., FusionModel]) -> None:
    model = fresh()
    assert isinstance(model, PMF)
    with torch.no_grad():
        model.image_classifier.bias.fill_(float("nan"))
    with pytest.raises(TrainingError, match="the loss is nan at step 0"):
        train(model=model, split=split, recipe=config.recipe, step_count=1, seed=0)


def test_soft_targets_of_each_sample_are_learned(
    split: FeatureSplit, config: Config, fresh: Callable[..., FusionModel]
) -> None:
    """With all weight on targets that contradict the labels, the model learns the targets of each sample."""
    model, wanted = fresh(), (torch.from_numpy(split.labels) + 1) % 3
    targets = SoftTargets(torch.nn.functional.one_hot(wanted, 3).float(), weight=1.0, temperature=1.0)
    train_steps(model=model, split=split, recipe=config.recipe, steps=Steps(40, seed=0), soft_targets=targets)
    assert (predict_logits(model, split, batch_size=8).argmax(dim=1) == wanted).double().mean() > 0.9


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_loss_of_a_step_mixes_labels_and_soft_targets(
    split: FeatureSplit, config: Config, fresh: Callable[..., FusionModel], micro_batches: int
) -> None:
    recipe = config.recipe.replace(label_smoothing=0.0)
    probabilities = torch.rand(len(split), 3, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
    found: list[float] = []
    train_steps(
        model=fresh(),
        split=split,
        recipe=recipe,
        steps=Steps(1, 5, micro_batches),
        on_step=lambda step, loss: found.append(loss),
        soft_targets=SoftTargets(probabilities, weight=0.25, temperature=2.0),
    )
    indices = torch.tensor(BatchSchedule(len(split), recipe.batch_size, 5).indices(0))
    logits = predict_logits(fresh(), split, batch_size=8)[indices]
    soft = -(probabilities[indices] * (logits / 2).log_softmax(dim=1)).sum(dim=1).mean()
    hard = cross_entropy(logits, torch.from_numpy(split.labels)[indices])
    assert found == pytest.approx([float(0.75 * hard + 0.25 * 4 * soft)], rel=1e-5)
