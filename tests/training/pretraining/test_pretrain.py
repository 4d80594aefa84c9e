"""Whole pretrainings: what they depend on, what they change, and how they resume."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nas.common.errors import TrainingError
from nas.data.features.store import FeatureSplit
from nas.training.pretraining.checkpoint import PretrainingCheckpoint
from nas.training.pretraining.pairs import PairBatch
from nas.training.pretraining.pretrain import pretrain
from nas.training.pretraining.settings import PretrainingSettings
from nas.training.pretraining.step import Pretrainer
from nas.training.stopping import StopRequested
from tests.support.tiny_pairs import TinyPairs

FACTS = {"training": "a", "seed": "5"}


def weights(model: TinyPairs) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.fixture
def whole(fresh: Callable[[], TinyPairs], split: FeatureSplit, settings: PretrainingSettings) -> dict[str, Tensor]:
    """The weights after an uninterrupted pretraining."""
    model = fresh()
    pretrain(model, split, settings, seed=5)
    return weights(model)


def test_all_weights_but_the_classifier_are_trained_without_the_labels(
    fresh: Callable[[], TinyPairs], split: FeatureSplit, settings: PretrainingSettings, whole: dict[str, Tensor]
) -> None:
    before = weights(fresh())
    assert before.keys() == whole.keys(), "heads are no part of the model"
    unchanged = {name for name, tensor in before.items() if torch.equal(tensor, whole[name])}
    assert unchanged == {"classifier.weight", "classifier.bias"}
    relabelled, model = copy.copy(split), fresh()
    relabelled.labels = split.labels[::-1].copy()
    pretrain(model, relabelled, settings, seed=5)
    assert_equal(weights(model), whole)
    pretrain(other := fresh(), split, settings, seed=6)
    assert not torch.equal(weights(other)["joint.weight"], whole["joint.weight"])


@pytest.mark.parametrize("stops_before", [1, 3, 6])
def test_interrupted_pretraining_resumes_without_a_difference(
    fresh: Callable[[], TinyPairs],
    split: FeatureSplit,
    settings: PretrainingSettings,
    whole: dict[str, Tensor],
    tmp_path: Path,
    stops_before: int,
) -> None:
    checkpoint = PretrainingCheckpoint(tmp_path / "pretraining" / "a.pt", FACTS)
    steps: list[int] = []
    calls = iter(range(100))
    with pytest.raises(StopRequested):
        pretrain(
            fresh(), split, settings, seed=5, checkpoint=checkpoint, should_stop=lambda: next(calls) == stops_before
        )
    model = fresh()
    pretrain(model, split, settings, seed=5, checkpoint=checkpoint, on_step=lambda step, loss: steps.append(step))
    assert steps == list(range(stops_before // 2 * 2 + 1, 8))
    assert_equal(weights(model), whole)
    # Once it has ended, only its weights are read.
    again = fresh()
    pretrain(again, split, settings, seed=5, checkpoint=checkpoint, should_stop=lambda: True)
    assert_equal(weights(again), whole)
    checkpoint.delete()
    assert not list((tmp_path / "pretraining").iterdir())


@pytest.fixture
def staged(settings: PretrainingSettings) -> PretrainingSettings:
    """Three steps on texts alone before those on pairs."""
    return replace(settings, config=settings.config.replace(text_steps=3))


def test_steps_on_texts_alone_train_the_weights_of_texts_without_the_pictures(
    fresh: Callable[[], TinyPairs],
    split: FeatureSplit,
    staged: PretrainingSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read, step = list[int](), Pretrainer.text_step

    def noted(self: Pretrainer, index: int, pairs: PairBatch) -> None:
        read.append(pairs.batch.image_tokens.numel())
        step(self, index, pairs)

    def after(steps: int) -> dict[str, Tensor]:
        calls, model = iter(range(100)), fresh()
        with pytest.raises(StopRequested):
            pretrain(model, split, staged, seed=5, should_stop=lambda: next(calls) == steps)
        return weights(model)

    monkeypatch.setattr(Pretrainer, "text_step", noted)
    found, before = after(3), weights(fresh())
    assert read == [0, 0, 0]
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, found[name])}
    assert changed and all(name.startswith("text_encoder.") for name in changed)
    assert any("attention" in name for name in changed), "the tiny family trains the whole encoder"
    assert not torch.equal(after(4)["joint.weight"], found["joint.weight"]), "then all weights learn"


def test_moving_average_starts_after_the_steps_on_texts(
    fresh: Callable[[], TinyPairs], staged: PretrainingSettings
) -> None:
    pretrainer = Pretrainer(fresh(), staged)
    with torch.no_grad():
        for parameter in pretrainer.model.parameters():
            parameter.add_(1.0)
    pretrainer.start_pairs()
    own = dict(pretrainer.model.named_parameters())
    assert own.keys() == pretrainer.average.keys()
    assert all(torch.equal(tensor, own[name]) for name, tensor in pretrainer.average.items())
    assert not pretrainer.optimizer.state


@pytest.mark.parametrize("stops_before", [1, 3, 4, 9])
def test_pretraining_with_steps_on_texts_resumes_without_a_difference(
    fresh: Callable[[], TinyPairs],
    split: FeatureSplit,
    staged: PretrainingSettings,
    tmp_path: Path,
    stops_before: int,
) -> None:
    settings = replace(staged, config=staged.config.replace(checkpoint_steps=3))
    pretrain(whole := fresh(), split, settings, seed=5)
    checkpoint, calls = PretrainingCheckpoint(tmp_path / "pretraining" / "a.pt", FACTS), iter(range(100))
    with pytest.raises(StopRequested):
        pretrain(
            fresh(), split, settings, seed=5, checkpoint=checkpoint, should_stop=lambda: next(calls) == stops_before
        )
    model, steps = fresh(), list[int]()
    pretrain(model, split, settings, seed=5, checkpoint=checkpoint, on_step=lambda step, loss: steps.append(step))
    assert steps == list(range(stops_before // 3 * 3 + 1, 11))
    assert_equal(weights(model), weights(whole))


@pytest.mark.parametrize("damage", ["other facts", "cut", "no archive", "changed byte"])
def test_checkpoint_that_is_damaged_or_of_another_training_counts_as_missing(
    fresh: Callable[[], TinyPairs], split: FeatureSplit, settings: PretrainingSettings, tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "a.pt"
    checkpoint = PretrainingCheckpoint(path, FACTS)
    checkpoint.finish(fresh())
    assert checkpoint.load_finished(fresh())
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "no archive":
        path.write_bytes(b"x" * 100)
    elif damage == "changed byte":
        content[len(content) // 2] ^= 255
        path.write_bytes(content)
    else:
        checkpoint = PretrainingCheckpoint(path, FACTS | {"seed": "6"})
    assert not checkpoint.load_finished(fresh())


def test_losses_fall(fresh: Callable[[], TinyPairs], split: FeatureSplit, settings: PretrainingSettings) -> None:
    found: list[float] = []
    rates = settings.recipe.learning_rates.scaled(5.0)
    long = replace(
        settings,
        config=settings.config.replace(steps=20, queue_size=6),
        recipe=settings.recipe.replace(learning_rates=rates),
    )
    pretrain(fresh(), split, long, seed=5, on_step=lambda step, loss: found.append(loss))
    assert len(found) == 20
    assert sum(found[-5:]) < 0.9 * sum(found[:5])


def test_loss_that_is_not_finite_ends_the_pretraining(
    fresh: Callable[[], TinyPairs], split: FeatureSplit, settings: PretrainingSettings, tmp_path: Path
) -> None:
    checkpoint = PretrainingCheckpoint(tmp_path / "a.pt", FACTS)
    model = fresh()
    with torch.no_grad():
        model.joint.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match="loss is nan at step 0"):
        pretrain(model, split, settings, seed=5, checkpoint=checkpoint)
    assert not (tmp_path / "a.pt").exists()
