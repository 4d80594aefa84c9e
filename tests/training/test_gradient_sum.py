"""Trainings that several processes, here threads, share: the gradients and weights of one process."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nas.config.schema import Config
from nas.data.features.store import FeatureSplit, FeatureStore
from nas.models.fusion.base import FusionModel
from nas.run.prepare import SearchContext
from nas.search.space import Architecture
from nas.training.batches import BatchSchedule
from nas.training.contrastive import ContrastiveLoss
from nas.training.distributed import GradientGroup, GroupBroken, SingleProcessGroup
from nas.training.gradient_sum import GradientSum
from nas.training.soft_targets import Distillation, SoftTargets
from nas.training.stopping import StopRequested
from nas.training.trainer import Steps, Trainer, train_steps
from tests.support.groups import run_group
from tests.support.tiny import reads_at

STEPS, SEED = 3, 5
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Shared:
    """A training that processes share.

    Args:
        size: The number of processes.
        batch_size: The number of samples of a batch.
        micro_batches: The number of micro-batches of a whole batch.
        has_several_labels: Whether a sample may have several labels.
        is_taught: Whether a teacher has targets for the samples.
        recipe: Other changes of the recipe.
    """

    size: int
    batch_size: int = 7
    micro_batches: int = 1
    has_several_labels: bool = False
    is_taught: bool = False
    recipe: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Trained:
    """What a process has at the end: the losses of all steps, the gradients of the last one, and the weights."""

    losses: list[float]
    gradients: dict[str, Tensor]
    weights: dict[str, Tensor]


WEIGHTED: dict[str, Any] = {"class_weights": "inverse_frequency", "label_smoothing": 0.1}
CASES = {
    "equal weights": Shared(2),
    "class weights": Shared(2, recipe=WEIGHTED),
    "three parts of a batch of seven": Shared(3, recipe=WEIGHTED),
    "micro-batches": Shared(2, micro_batches=3, recipe=WEIGHTED),
    "several labels": Shared(2, has_several_labels=True, recipe=WEIGHTED),
    "a process without samples": Shared(3, batch_size=2, micro_batches=2),
    "a teacher": Shared(2, micro_batches=2, is_taught=True, recipe=WEIGHTED),
    "plain descent without a limit of the norm": Shared(2, recipe={**WEIGHTED, "optimizer": "sgd", "clip_norm": None}),
}


@pytest.fixture
def split_of(prepared: SearchContext) -> Callable[[Shared], FeatureSplit]:
    """Function that returns the training samples with labels of unequal frequency."""

    def build(case: Shared) -> FeatureSplit:
        split = FeatureStore(prepared.store.directory).splits["train"]
        if case.has_several_labels:
            chance = np.random.default_rng(1).random((len(split), 3))
            split.labels = (chance < [0.1, 0.3, 0.8]).astype(np.float32)
        else:
            split.labels = np.where(np.arange(len(split)) % 4 == 0, 0, split.labels)
        return split

    return build


class Train:
    """Trains a case in one process, or in a group.

    Args:
        config: The configuration of the little project.
        fresh: Function that builds a model.
        split_of: Function that returns the samples of a case.
    """

    def __init__(
        self, config: Config, fresh: Callable[..., FusionModel], split_of: Callable[[Shared], FeatureSplit]
    ) -> None:
        self._config = config
        self._fresh = fresh
        self._split_of = split_of

    def alone(self, case: Shared) -> Trained:
        return self._train(case, self._fresh(seed=0), None)

    def together(self, case: Shared) -> list[Any]:
        """Return what each process has at the end, or its error."""
        # Built here: threads share a random generator. Rank 0 has the weights that all have to start from.
        models = [self._fresh(seed=rank) for rank in range(case.size)]
        return run_group(case.size, lambda group: self._train(case, models[group.rank], group))

    def _train(self, case: Shared, model: FusionModel, group: GradientGroup | None) -> Trained:
        split, losses = self._split_of(case), list[float]()
        teacher = None
        if case.is_taught:
            logits = torch.randn(len(split), 3, generator=torch.Generator().manual_seed(0))
            teacher = SoftTargets.of(logits, torch.from_numpy(split.labels), temperature=2.0, weight=0.3)
        train_steps(
            model=model,
            split=split,
            recipe=self._config.recipe.replace(batch_size=case.batch_size, **case.recipe),
            steps=Steps(STEPS, SEED, case.micro_batches, group or SingleProcessGroup()),
            soft_targets=teacher,
            on_step=lambda step, loss: losses.append(loss),
        )
        named = dict(model.named_parameters())
        gradients = {name: entry.grad for name, entry in named.items() if entry.grad is not None}
        return Trained(losses, gradients, {name: entry.detach() for name, entry in named.items()})


@pytest.fixture
def trained(config: Config, fresh: Callable[..., FusionModel], split_of: Callable[[Shared], FeatureSplit]) -> Train:
    return Train(config, fresh, split_of)


def assert_shared_equals_single(case: Shared, trained: Train) -> None:
    single, outcomes = trained.alone(case), trained.together(case)
    for outcome in outcomes:
        assert isinstance(outcome, Trained), outcome
        assert outcome.losses == pytest.approx(single.losses, abs=TOLERANCE)
        assert outcome.gradients.keys() == single.gradients.keys()
        torch.testing.assert_close(outcome.gradients, single.gradients, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(outcome.weights, single.weights, atol=TOLERANCE, rtol=0)
        for name, values in outcome.weights.items():
            assert torch.equal(values, outcomes[0].weights[name]), name


@pytest.mark.parametrize("name", CASES)
def test_processes_have_the_gradients_and_weights_of_one(name: str, trained: Train) -> None:
    assert_shared_equals_single(CASES[name], trained)


@pytest.mark.parametrize("name", ["class weights", "three parts of a batch of seven", "several labels"])
def test_mean_of_the_means_of_the_parts_is_found(name: str, trained: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    step, size = Trainer.step, CASES[name].size

    def step_of_means(
        trainer: Trainer,
        index: int,
        micro_batches: Any,
        total_weight: float,
        architecture: Architecture | None = None,
        distillation: Distillation | None = None,
    ) -> None:
        batches = list(micro_batches)
        labels = torch.cat([batch.labels for batch in batches]).numpy()
        is_whole = len(labels) == CASES[name].batch_size
        weight = total_weight if is_whole else size * trainer.loss.total_weight(labels)
        step(trainer, index, batches, weight, architecture, distillation)

    monkeypatch.setattr(Trainer, "step", step_of_means)
    with pytest.raises(AssertionError):
        assert_shared_equals_single(CASES[name], trained)


def test_products_in_bfloat16_give_the_weights_of_one_process_up_to_their_rounding(trained: Train) -> None:
    case = Shared(2, recipe={**WEIGHTED, "precision": "bfloat16"})
    single, (first, second) = trained.alone(case), trained.together(case)
    assert isinstance(first, Trained) and isinstance(second, Trained), (first, second)
    assert {values.dtype for values in first.weights.values()} == {torch.float32}
    for name, values in first.weights.items():
        assert torch.equal(values, second.weights[name])
    one, other = (torch.cat([values.flatten() for values in run.gradients.values()]) for run in (single, first))
    assert float((one - other).norm() / one.norm()) < 2**-5


def test_parts_of_a_batch_are_its_samples_in_order_and_no_micro_batch_is_larger(
    split_of: Callable[[Shared], FeatureSplit],
) -> None:
    batch = BatchSchedule(36, 10, seed=3).select(split_of(Shared(1)), 1)
    for size in (1, 2, 3, 4, 11):
        for micro_batches in (1, 2, 3, 10):
            parts = [batch.part(rank, size, micro_batches) for rank in range(size)]
            assert np.concatenate([part.indices for part, _ in parts]).tolist() == batch.indices.tolist()
            largest = -(-10 // micro_batches)
            for part, count in parts:
                reads = part.reads(reads_at(1), count)
                assert len(reads) == min(count, len(part.indices))
                assert all(len(read.args[0]) <= largest for read in reads)  # type: ignore[attr-defined]


def test_weights_that_no_process_uses_are_not_decayed() -> None:
    def work(group: GradientGroup) -> list[bool]:
        layers = nn.ModuleList([nn.Linear(2, 1), nn.Linear(2, 1)])
        gradients = GradientSum(layers, group)
        if group.rank == 0:
            layers[0](torch.ones(1, 2)).sum().backward()
        gradients.add_up(torch.zeros(()))
        return [parameter.grad is not None for parameter in layers.parameters()]

    assert run_group(2, work) == [[True, True, False, False]] * 2


def test_large_gradients_are_summed_where_they_are_and_small_ones_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.training.gradient_sum.JOINED_BYTES", 40)
    sizes = [3, 5, 20, 1, 1, 10]

    def work(group: GradientGroup) -> list[tuple[int, bool]]:
        sent: list[Tensor] = []
        parameters = nn.ParameterList([torch.zeros(size) for size in sizes])
        for number, parameter in enumerate(parameters):
            parameter.grad = torch.full_like(parameter, float(number * 10 + group.rank))
        gradients = GradientSum(parameters, group)
        kept = [parameter.grad for parameter in parameters]
        add = group.sum

        def send(buffer: Tensor) -> None:
            sent.append(buffer)
            add(buffer)

        monkeypatch.setattr(group, "sum", send)
        assert float(gradients.add_up(torch.tensor(2.0))) == 4.0
        for number, (parameter, before) in enumerate(zip(parameters, kept, strict=True)):
            assert parameter.grad is before and before is not None
            assert before.tolist() == [20.0 * number + 1] * sizes[number]
        return [(len(buffer.flatten()), any(buffer is gradient for gradient in kept)) for buffer in sent[1:]]

    # The loss and the first two gradients are nine numbers; the third is larger than what is joined.
    assert run_group(2, work) == [[(9, False), (20, True), (2, False), (10, True)]] * 2


def test_all_processes_stop_at_the_same_step(
    config: Config, fresh: Callable[..., FusionModel], split_of: Callable[[Shared], FeatureSplit]
) -> None:
    models = [fresh(), fresh()]

    def work(group: GradientGroup) -> list[float]:
        losses: list[float] = []
        with pytest.raises(StopRequested):
            train_steps(
                model=models[group.rank],
                split=split_of(Shared(2)),
                recipe=config.recipe,
                steps=Steps(50, SEED, group=group),
                should_stop=lambda: group.rank == 1 and len(losses) == 2,
                on_step=lambda step, loss: losses.append(loss),
            )
        return losses

    first, second = run_group(2, work)
    assert first == second and len(first) == 2


def test_process_that_fails_ends_the_others(
    config: Config, fresh: Callable[..., FusionModel], split_of: Callable[[Shared], FeatureSplit]
) -> None:
    models = [fresh(), fresh()]

    def work(group: GradientGroup) -> None:
        def fail(step: int, loss: float) -> None:
            if group.rank == 1:
                raise MemoryError("out of memory in this process")

        steps = Steps(50, SEED, group=group)
        split = split_of(Shared(2))
        train_steps(model=models[group.rank], split=split, recipe=config.recipe, steps=steps, on_step=fail)

    first, second = run_group(2, work)
    assert isinstance(first, GroupBroken) and isinstance(second, MemoryError)


def test_contrastive_loss_cannot_be_divided(config: Config, fresh: Callable[..., FusionModel]) -> None:
    model = fresh()

    def work(group: GradientGroup) -> None:
        loss = ContrastiveLoss(np.zeros((4, 2), dtype=np.int64))
        Trainer(model=model, recipe=config.recipe, step_count=1, loss=loss, group=group)

    assert all("cannot divide it" in str(error) for error in run_group(2, work))
