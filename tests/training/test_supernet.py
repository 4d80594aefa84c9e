"""Steps of the supernet against a step on the loss of all its samples, spelled out."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor

from nas.common.errors import BudgetError
from nas.common.seeds import seed_from
from nas.config.training_schema import RecipeConfig
from nas.models.fusion.base import Features
from nas.search.space import Architecture
from nas.training.batches import BatchSchedule
from nas.training.losses import Loss, build_loss, class_weights
from nas.training.trainer import Trainer, learning_rate_factor
from tests.support.supernet_training import (
    SEED,
    STEPS,
    TrainingCase,
    assert_identical,
    finished,
    fresh_supernet,
    load_checkpoint,
    train_case,
    train_in_processes,
    unbalanced_split,
)
from tests.support.tiny import reads_at


@pytest.fixture
def double_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute class weights in float64, as the supernet of the test is, so that rounding hides no error."""
    monkeypatch.setattr(
        "nas.training.losses.class_weights",
        lambda *arguments: cast(Tensor, class_weights(*arguments)).double(),
    )


class StepOracle:
    """The loss of a step and its update, spelled out without micro-batches, processes or `Loss`.

    Args:
        case: The training.
        recipe: The recipe of the training.
    """

    def __init__(self, case: TrainingCase, recipe: RecipeConfig) -> None:
        self.case, self.recipe = case, recipe
        self.supernet, self.split = fresh_supernet(case.config, dtype=torch.float64), unbalanced_split(case.store)
        weights = class_weights(self.split.labels, 3, "inverse_frequency")
        assert weights is not None and len(set(weights.tolist())) > 1
        self.weights = weights.double()
        self.schedule = BatchSchedule(len(self.split), recipe.batch_size, seed_from(SEED, "supernet samples"))
        self.optimizer = self._build_optimizer()

    def _build_optimizer(self) -> torch.optim.Optimizer:
        named = list(self.supernet.named_parameters())
        groups = [
            {"params": [value for name, value in named if "classifier" not in name]},
            {"params": [value for name, value in named if "classifier" in name]},
        ]
        decay = self.recipe.weight_decay
        if self.recipe.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=0.0, momentum=0.9, weight_decay=decay)
        return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999), weight_decay=decay)

    def step(self, step: int) -> float:
        """Train one step; return its loss."""
        losses, total_weight, scales = [], 0.0, []
        drawn = self.case.drawn(step)
        for index, (number, architecture) in enumerate(drawn):
            logits, labels = self._logits(number, architecture)
            loss = self._label_loss(logits, labels)
            if index and self.case.distillation:
                teacher_logits, _ = self._logits(number, drawn[0][1])
                distance = self._teacher_loss(logits, teacher_logits.detach(), labels)
                loss = (1 - self.case.distillation) * loss + self.case.distillation * distance
            losses.append(loss)
            total_weight += float(self.weights[labels].sum())
            scales.append((3 - architecture.first_layer) ** -0.5)  # depth_scaling 0.5
        total = torch.stack(losses).sum() / total_weight
        self.optimizer.zero_grad()
        torch.autograd.backward(total)
        torch.nn.utils.clip_grad_norm_(self.supernet.parameters(), 1.0)
        rate = 0.01 * learning_rate_factor(step, STEPS, self.recipe)
        self.optimizer.param_groups[0]["lr"] = rate * sum(scales) / len(scales)
        self.optimizer.param_groups[1]["lr"] = rate
        self.optimizer.step()
        return total.item()

    def _logits(self, number: int, architecture: Architecture) -> tuple[Tensor, Tensor]:
        batch = self.split.batch(self.schedule.indices(number), reads_at(architecture.first_layer))
        features = Features(batch.image_tokens, batch.text_tokens, batch.text_mask)
        return self.supernet(features, architecture), batch.labels

    def _label_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        smoothing = self.recipe.label_smoothing
        target = torch.nn.functional.one_hot(labels, 3) * (1 - smoothing) + smoothing / 3
        return -(logits.log_softmax(dim=1) * target).sum(dim=1) @ self.weights[labels]

    def _teacher_loss(self, logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        return -(logits.log_softmax(dim=1) * teacher_logits.softmax(dim=1)).sum(dim=1) @ self.weights[labels]


@pytest.mark.usefixtures("double_weights")
@pytest.mark.parametrize(
    ("optimizer", "sampling", "distillation"),
    [("sgd", "uniform", 0.0), ("adamw", "balanced", 0.0), ("adamw", "sandwich", 0.0), ("sgd", "sandwich", 0.4)],
)
def test_step_minimizes_the_loss_of_all_its_samples(
    case: TrainingCase, optimizer: str, sampling: str, distillation: float
) -> None:
    recipe: RecipeConfig = case.config.recipe.replace(optimizer=optimizer, depth_scaling=0.5)
    case = replace(case, config=case.config.replace(recipe=recipe), sampling=sampling, distillation=distillation)
    trained = fresh_supernet(case.config, dtype=torch.float64)
    _, losses = train_case(case, trained)
    oracle = StepOracle(case, recipe)
    assert losses == pytest.approx([oracle.step(step) for step in range(STEPS)], rel=1e-6)
    for (name, one), other in zip(trained.named_parameters(), oracle.supernet.parameters(), strict=True):
        assert (one - other).norm() <= 1e-6 * other.norm(), name


def test_one_architecture_per_step_equals_plain_training(case: TrainingCase) -> None:
    supernet, split, recipe = fresh_supernet(case.config), unbalanced_split(case.store), case.config.recipe
    trainer = Trainer(model=supernet, recipe=recipe, step_count=STEPS, loss=build_loss(recipe, split.labels, 3))
    schedule = BatchSchedule(len(split), recipe.batch_size, seed_from(SEED, "supernet samples"))
    case = replace(case, architectures_per_step=1)
    for step in range(STEPS):
        ((number, architecture),) = case.drawn(step)
        batch = schedule.select(split, number)
        inputs = batch.read(reads_at(architecture.first_layer))
        trainer.step(step, inputs, trainer.loss.total_weight(batch.labels), architecture)
    assert train_case(case, fresh_supernet(case.config)) == (STEPS, trainer.losses.take())
    state = load_checkpoint(case.checkpoint)
    assert_identical(dict(state["model"]), dict(supernet.state_dict()))
    assert_identical(state["optimizer"], trainer.optimizer.state_dict())


@pytest.mark.usefixtures("double_weights")
def test_micro_batches_change_results_only_by_rounding(case: TrainingCase) -> None:
    whole, divided = (fresh_supernet(case.config, dtype=torch.float64) for _ in range(2))
    train_case(case, whole)
    case.checkpoint.unlink()
    requested: set[Architecture] = set()

    def micro_batches(architecture: Architecture) -> int:
        requested.add(architecture)
        return 2 + architecture.first_layer

    train_case(case, divided, micro_batches=micro_batches)
    assert requested == {architecture for step in range(STEPS) for _, architecture in case.drawn(step)}
    for one, other in zip(whole.parameters(), divided.parameters(), strict=True):
        assert (one - other).norm() <= 1e-6 * one.norm()


def test_used_parameters_are_those_with_a_gradient(case: TrainingCase) -> None:
    supernet, split = fresh_supernet(case.config), unbalanced_split(case.store)
    trainer = Trainer(model=supernet, recipe=case.config.recipe, step_count=1, loss=Loss(None, 0.1))
    for architecture in case.config.space:
        trainer.optimizer.zero_grad()
        trainer.accumulate_gradients([split.batch([0, 1], reads_at(architecture.first_layer))], 2.0, architecture)
        with_gradient = [id(parameter) for parameter in supernet.parameters() if parameter.grad is not None]
        assert [id(parameter) for parameter in supernet.used_parameters(architecture)] == with_gradient


@pytest.mark.parametrize("size", [1, 2])
def test_unused_parameters_do_not_change(case: TrainingCase, tmp_path: Path, size: int) -> None:
    config = case.config.replace(recipe=case.config.recipe.replace(weight_decay=0.5))
    case = replace(case, config=config, architectures_per_step=2, least_fusion_layer=1)
    if size == 1:
        train_case(case, fresh_supernet(config))
    else:
        finished(train_in_processes(case, size, tmp_path / "processes"))
    state, fresh = load_checkpoint(case.checkpoint), fresh_supernet(config).state_dict()
    is_unused = {name: name.startswith("fusion_layers.0.") for name in fresh}
    for name, before in fresh.items():
        assert torch.equal(state["model"][name], before) == (is_unused[name] or not before.numel()), name
    assert len(state["optimizer"]["state"]) == sum(not unused for unused in is_unused.values())


def test_space_without_feasible_architecture_is_an_error(case: TrainingCase) -> None:
    with pytest.raises(BudgetError, match=r"not even the smallest \("):
        train_case(replace(case, least_fusion_layer=9), fresh_supernet(case.config))
