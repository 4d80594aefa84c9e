"""Classifiers that start from the solution of the linear problem on what they read."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from nas.config.schema import Config
from nas.data.features.store import FeatureSplit
from nas.memory.tracker import PeakTracker
from nas.models.fusion.base import FusionModel
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.models.fusion.pmf.model import PMF
from nas.search.space import SearchSpace
from nas.training.batches import features_of_batch
from nas.training.evaluate import predict_logits
from nas.training.linear import LinearProblem
from nas.training.linear_start import start_bytes, start_classifiers, start_penalty
from nas.training.losses import build_loss
from nas.training.stopping import StopRequested
from tests.support.supernet_training import (
    TrainingCase,
    assert_identical,
    finished,
    fresh_supernet,
    load_checkpoint,
    train_case,
    train_in_processes,
    unbalanced_split,
)


def read(model: FusionModel, split: FeatureSplit) -> Tensor:
    """Return what both classifiers of a model read of every sample, one at a time: (N, D)."""
    assert isinstance(model, PMF)
    rows: list[Tensor] = []

    def stack(classifier: nn.Module, inputs: tuple[Tensor]) -> None:
        rows.append(inputs[0])

    handles = [entry.register_forward_pre_hook(stack) for entry in (model.image_classifier, model.text_classifier)]
    with torch.no_grad():
        for index in range(len(split)):
            model(features_of_batch(split.batch([index], model.entry_layers())))
    for handle in handles:
        handle.remove()
    return torch.cat([torch.cat(rows[::2]), torch.cat(rows[1::2])], dim=1)


def classifier_state(model: FusionModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items() if "classifier" in name}


def test_model_starts_as_the_logistic_regression_on_what_it_reads(
    split: FeatureSplit, config: Config, fresh: Callable[..., FusionModel]
) -> None:
    recipe = config.recipe.replace(classifier_start="linear", class_weights="none", label_smoothing=0.0)
    model = fresh()
    inputs = read(model, split).double().numpy()
    others = {name: value.clone() for name, value in model.state_dict().items() if "classifier" not in name}
    start_classifiers(model, split, recipe, batch_size=5)
    scaler = StandardScaler().fit(inputs)
    penalty = start_penalty(split.labels)
    expected = LogisticRegression(C=1 / (penalty * len(split)), tol=1e-10, max_iter=10_000)
    expected.fit(scaler.transform(inputs), split.labels)
    found = predict_logits(model, split, batch_size=4).softmax(dim=1)
    torch.testing.assert_close(
        found, torch.tensor(expected.predict_proba(scaler.transform(inputs))).float(), rtol=0, atol=2e-3
    )
    assert all(torch.equal(value, others[name]) for name, value in model.state_dict().items() if name in others)


def test_start_of_several_labels_minimizes_the_weighted_loss(
    split: FeatureSplit, config: Config, fresh: Callable[..., FusionModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = (np.random.default_rng(3).random((len(split), 3)) < (0.1, 0.3, 0.6)).astype(np.float32)
    monkeypatch.setattr(split, "labels", labels)
    recipe = config.recipe.replace(classifier_start="linear", class_weights="inverse_frequency", label_smoothing=0.1)
    model = fresh()
    start_classifiers(model, split, recipe, batch_size=5)
    logits = predict_logits(model, split, batch_size=4)
    inputs, loss = read(model, split), build_loss(recipe, labels, 3)
    solution = LinearProblem(inputs, labels, 3, loss).solve(start_penalty(labels))
    torch.testing.assert_close(logits, solution.logits(inputs), rtol=0, atol=1e-2)


def test_random_start_changes_nothing(split: FeatureSplit, config: Config, fresh: Callable[..., FusionModel]) -> None:
    model = fresh()
    before = classifier_state(model)
    start_classifiers(model, split, config.recipe.replace(classifier_start="random"), batch_size=4)
    assert_identical(classifier_state(model), before)


def test_start_depends_neither_on_the_initial_classifiers_nor_on_the_size_of_batches(
    split: FeatureSplit, config: Config, fresh: Callable[..., FusionModel]
) -> None:
    recipe = config.recipe.replace(classifier_start="linear")
    models = [fresh(), fresh(), fresh()]
    assert isinstance(models[1], PMF)
    nn.init.ones_(models[1].image_classifier.weight)
    for model, size in zip(models, (4, 4, 7), strict=True):
        start_classifiers(model, split, recipe, batch_size=size)
    first, second, third = (classifier_state(model) for model in models)
    assert_identical(first, second)
    for name, value in first.items():
        torch.testing.assert_close(third[name], value, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("evaluations", [0, 3, 12])
def test_start_stops_on_request(
    split: FeatureSplit, config: Config, fresh: Callable[..., FusionModel], evaluations: int
) -> None:
    counter = itertools.count()
    with pytest.raises(StopRequested):
        start_classifiers(
            fresh(),
            split,
            config.recipe.replace(classifier_start="linear"),
            batch_size=4,
            should_stop=lambda: next(counter) >= evaluations,
        )


def test_start_needs_no_more_memory_than_predicted(
    split: FeatureSplit, config: Config, fresh: Callable[..., FusionModel]
) -> None:
    recipe = config.recipe.replace(classifier_start="linear")
    model = fresh()
    weights = [*model.parameters(), *(entry for encoder in model.encoders for entry in encoder.parameters())]
    batch = split.batch(range(4), model.entry_layers())
    with PeakTracker(weights) as forward, torch.no_grad():
        model(features_of_batch(batch))
    with PeakTracker(weights) as tracker:
        start_classifiers(model, split, recipe, batch_size=4)
    size = sum(encoder.hidden_size for encoder in model.encoders)
    predicted = start_bytes(len(split), size, model.num_classes, forward_bytes=forward.peak_bytes)
    assert predicted / 4 < tracker.peak_bytes <= predicted


def test_supernet_starts_equal_for_any_number_of_processes(case: TrainingCase, tmp_path: Path) -> None:
    recipe = case.config.recipe.replace(classifier_start="linear")
    case = replace(
        case, config=case.config.replace(recipe=recipe), sampling="sandwich", stop_after={0: 10_000, 1: 10_000}
    )
    finished(train_in_processes(case, 2, tmp_path / "processes"))
    single = replace(case, checkpoint=tmp_path / "single.pt")
    train_case(single, fresh_supernet(case.config))
    assert_identical(load_checkpoint(case.checkpoint)["model"], load_checkpoint(single.checkpoint)["model"])


def test_supernet_starts_the_classifiers_of_every_readout(case: TrainingCase) -> None:
    choices = {**case.config.space.choices, "image_readout": (0, 1), "text_readout": (0, 1)}
    space = SearchSpace(PMFArchitecture, choices)
    config = case.config.replace(recipe=case.config.recipe.replace(classifier_start="linear"), space=space)
    supernet, expected = fresh_supernet(config), fresh_supernet(config)
    train_case(replace(case, config=config, sampling="sandwich"), supernet, elapsed_fraction=lambda: 1.0)  # no step
    for architecture in (space.largest, space.smallest):
        start_classifiers(
            expected,
            unbalanced_split(case.store),
            config.recipe,
            batch_size=config.recipe.batch_size,
            architecture=architecture,
        )
    assert len(classifier_state(supernet)) == 8
    assert_identical(classifier_state(supernet), classifier_state(expected))


def test_resumed_supernet_keeps_its_trained_classifiers(case: TrainingCase, tmp_path: Path) -> None:
    recipe = case.config.recipe.replace(classifier_start="linear")
    case = replace(case, config=case.config.replace(recipe=recipe))
    whole = replace(case, checkpoint=tmp_path / "whole.pt")
    train_case(whole, fresh_supernet(case.config))
    counter = itertools.count()
    train_case(case, fresh_supernet(case.config), should_stop=lambda: next(counter) >= 200)
    train_case(case, fresh_supernet(case.config))
    assert_identical(load_checkpoint(case.checkpoint)["model"], load_checkpoint(whole.checkpoint)["model"])
