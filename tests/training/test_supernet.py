import io
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from nas.common.errors import BudgetError, StudyError, TrainingError
from nas.common.progress import LineReporter
from nas.common.seeds import seed_from
from nas.config.load import load_config
from nas.config.schema import Config, RecipeConfig
from nas.data.features.store import FeatureSplit, FeatureStore
from nas.models.encoders.base import Encoder
from nas.models.encoders.bert import BertEncoder
from nas.models.encoders.vit import ViTEncoder
from nas.models.fusion.base import Features
from nas.models.fusion.pmf.model import PMF
from nas.models.fusion.supernet import build_supernet
from nas.run.prepare import prepare
from nas.search.space import Architecture
from nas.training.batches import BatchSchedule
from nas.training.distributed import GroupBroken, distributed_group, free_address
from nas.training.losses import Loss, class_weights, loss_of
from nas.training.supernet import train_supernet
from nas.training.supernet_sampling import Sampler, build_sampler
from nas.training.trainer import Trainer, learning_rate_factor
from tests.support.project import Project
from tests.support.tiny import bert_model, reads_at, vit_model

STEPS = 5
PEER_SECONDS = 60.0


@dataclass(frozen=True)
class Run:
    """A training of the supernet that every process of a group can be told of.

    Args:
        config: Of the little project.
        store: Its features.
        checkpoint: File.
        architectures_per_step: K.
        stop: Rank → steps after which it asks to stop.
        pace: Rank → part of the time that a step takes, by its clock.
        faults: Rank → what goes wrong when it computes its share for the first time.
        least_fusion_layer: Architectures that start to fuse before it are not sampled.
        sampling: Of the architectures.
        distillation: Part of the loss.
    """

    config: Config
    store: Path
    checkpoint: Path
    architectures_per_step: int = 3
    stop: dict[int, int] = field(default_factory=dict)
    pace: dict[int, float] = field(default_factory=dict)
    faults: dict[int, Callable[[PMF], None]] = field(default_factory=dict)
    least_fusion_layer: int = 0
    sampling: str = "uniform"
    distillation: float = 0.0


@dataclass
class Outcome:
    """What a process came to: weights and optimiser state of the supernet, or the error that it raised."""

    done: int = 0
    losses: list[float] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)
    error: Exception | None = None
    ended_at: float = 0.0


def encoders(dtype: torch.dtype = torch.float32) -> tuple[Encoder, Encoder]:
    """Those of the little project."""
    return ViTEncoder(vit_model(num_layers=4, dtype=dtype)), BertEncoder(bert_model(num_layers=3, dtype=dtype))


def fresh_supernet(config: Config, seed: int = 1, dtype: torch.dtype = torch.float32) -> PMF:
    image_encoder, text_encoder = encoders(dtype)
    return build_supernet(
        image_encoder=image_encoder, text_encoder=text_encoder, space=config.space, num_classes=3, seed=seed
    ).to(dtype)


def unbalanced_split(store: Path) -> FeatureSplit:
    """The training samples, of classes that are not equally frequent."""
    split = FeatureStore(store).splits["train"]
    split.labels = np.where(np.arange(len(split)) % 4 == 0, 0, split.labels)
    return split


def sampler_of(run: Run) -> Sampler:
    return build_sampler(
        run.sampling,
        space=run.config.space,
        count=run.architectures_per_step,
        seed=7,
        is_feasible=lambda architecture: architecture.fusion_layer >= run.least_fusion_layer,
    )


def train(run: Run, supernet: PMF, **changes: Any) -> tuple[int, list[float]]:
    """Train as a run says; steps done and losses."""
    losses: list[float] = []
    done = train_supernet(
        **{
            "supernet": supernet,
            "split": unbalanced_split(run.store),
            "sampler": sampler_of(run),
            "recipe": run.config.recipe,
            "step_count": STEPS,
            "seed": 7,
            "distillation": run.distillation,
            "checkpoint": run.checkpoint,
            "checkpoint_steps": 2,
            "should_stop": lambda: False,
            "on_step": lambda step, loss: losses.append(loss),
            **changes,
        }
    )
    return done, losses


def peer(run: Run, rank: int, size: int, address: str, path: Path) -> None:
    """One process of a group; writes its outcome to the path."""
    torch.set_num_threads(1)
    # Rank 0's weights are everybody's, and nobody else needs the file.
    supernet = fresh_supernet(run.config, seed=1 if rank == 0 else 1000 + rank)
    checkpoint = run.checkpoint if rank == 0 else path.with_name(f"rank_{rank}_has_none.pt")
    outcome, asked, faults = Outcome(), 0, dict(run.faults)

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return run.stop.get(rank, STEPS) < asked

    def micro_batches(architecture: Architecture) -> int:
        if fault := faults.pop(rank, None):
            fault(supernet)
        return 1

    try:
        with distributed_group(rank=rank, size=size, address=address, timeout_seconds=PEER_SECONDS) as group:
            try:
                outcome.done, outcome.losses = train(
                    replace(run, checkpoint=checkpoint),
                    supernet,
                    should_stop=should_stop,
                    micro_batches=micro_batches,
                    group=group,
                    time_share=lambda: run.pace.get(rank, 0.0) * (asked - 1),
                )
            except Exception as error:  # and stays in the group's context: closing it must not depend on leaving that
                outcome.error = error
                if isinstance(error, MemoryError):
                    time.sleep(2)
                outcome.ended_at = time.monotonic()
    except GroupBroken as error:  # another one was gone before this one had joined
        outcome.error = error
    outcome.state = dict(supernet.state_dict())
    assert rank == 0 or not checkpoint.exists()
    torch.save(outcome, path)


# Forked from a process that has imported everything, and has done nothing else yet.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])


def train_together(run: Run, size: int, folder: Path) -> list[Outcome | None]:
    """Train in so many processes; what each came to, None for one that was killed."""
    folder.mkdir()
    address, paths = free_address(), [folder / f"{rank}.pt" for rank in range(size)]
    peers = [PROCESSES.Process(target=peer, args=(run, rank, size, address, paths[rank])) for rank in range(size)]
    for process in peers:
        process.start()
    for process in peers:
        process.join(PEER_SECONDS)
        process.kill()
        process.join()
    return [torch.load(path, weights_only=False) if path.exists() else None for path in paths]


def finished(outcomes: Sequence[Outcome | None]) -> list[Outcome]:
    """The outcomes of processes that all got through."""
    assert all(outcome is not None and outcome.error is None for outcome in outcomes), outcomes
    return [outcome for outcome in outcomes if outcome is not None]


def checkpointed(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def assert_identical(one: Any, other: Any) -> None:
    """Equal to the last bit, whatever they are made of."""
    assert type(one) is type(other)
    if isinstance(one, Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_identical(value, other[key])
    elif isinstance(one, list | tuple):
        for pair in zip(one, other, strict=True):
            assert_identical(*pair)
    else:
        assert one == other


@pytest.fixture(scope="module")
def config(project: Project) -> Config:
    config = load_config(project.root / "search.yaml")
    recipe = replace(config.recipe, class_weights="inverse_frequency", label_smoothing=0.1)
    return replace(config, recipe=recipe)


@pytest.fixture(scope="module")
def store(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    reporter = LineReporter(io.StringIO())
    prepared = prepare(config, source="", cache_directory=tmp_path_factory.mktemp("cache"), reporter=reporter)
    return prepared.store.directory


@pytest.fixture
def run(config: Config, store: Path, tmp_path: Path) -> Run:
    return Run(config, store, tmp_path / "supernet.pt")


@pytest.fixture
def alone(run: Run, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """The state that a training by one process ends with."""

    def build(**changes: Any) -> dict[str, Any]:
        path = tmp_path / "alone.pt"
        train(replace(run, checkpoint=path, **changes), fresh_supernet(run.config))
        return checkpointed(path)

    return build


def test_sandwich_and_distillation_come_to_the_same_in_two_processes_to_the_bit(run: Run, tmp_path: Path) -> None:
    run = replace(run, sampling="sandwich", distillation=0.5)
    finished(train_together(run, 2, tmp_path / "peers"))
    together = checkpointed(run.checkpoint)
    run.checkpoint.unlink()
    train(run, fresh_supernet(run.config))
    assert_identical(together, checkpointed(run.checkpoint))


@pytest.mark.parametrize(("size", "architectures_per_step"), [(2, 3), (3, 3), (3, 4), (3, 2)])
def test_any_number_of_processes_comes_to_the_same_to_the_bit(
    run: Run, alone: Callable[..., dict[str, Any]], tmp_path: Path, size: int, architectures_per_step: int
) -> None:
    run = replace(run, architectures_per_step=architectures_per_step)
    outcomes = finished(train_together(run, size, tmp_path / "peers"))
    expected = alone(architectures_per_step=architectures_per_step)
    assert_identical(checkpointed(run.checkpoint), expected)
    for outcome in outcomes:
        assert_identical(outcome.state, dict(expected["model"]))
    assert [len(outcome.losses) for outcome in outcomes] == [STEPS] + [0] * (size - 1)


def drawn(run: Run, step: int) -> list[tuple[int, Architecture]]:
    """Number and architecture of everything that a step trains."""
    count = run.architectures_per_step
    return list(zip(range(step * count, (step + 1) * count), sampler_of(run).step(step), strict=True))


def plain_loss(logits: Tensor, labels: Tensor, weights: Tensor, smoothing: float) -> Tensor:
    """Weighted and smoothed cross entropies, each spelled out, summed."""
    target = torch.nn.functional.one_hot(labels, 3) * (1 - smoothing) + smoothing / 3
    return -(logits.log_softmax(dim=1) * target).sum(dim=1) @ weights[labels]


def distance(logits: Tensor, taught: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Weighted cross entropies with what a teacher says, spelled out, summed."""
    return -(logits.log_softmax(dim=1) * taught.softmax(dim=1)).sum(dim=1) @ weights[labels]


@pytest.fixture
def double_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Class weights for a supernet in float64, whose rounding hides nothing."""
    monkeypatch.setattr(
        "nas.training.losses.class_weights",
        lambda *arguments: cast(Tensor, class_weights(*arguments)).double(),
    )


@pytest.mark.usefixtures("double_weights")
@pytest.mark.parametrize(
    ("optimizer", "sampling", "distillation"),
    [("sgd", "uniform", 0.0), ("adamw", "balanced", 0.0), ("adamw", "sandwich", 0.0), ("sgd", "sandwich", 0.4)],
)
def test_a_step_is_one_step_on_the_loss_of_all_its_samples_together(
    run: Run, optimizer: str, sampling: str, distillation: float
) -> None:
    run = replace(run, sampling=sampling, distillation=distillation)
    recipe: RecipeConfig = replace(run.config.recipe, optimizer=optimizer, depth_scaling=0.5)
    run = replace(run, config=replace(run.config, recipe=recipe))
    trained = fresh_supernet(run.config, dtype=torch.float64)
    _, losses = train(run, trained)

    supernet, split = fresh_supernet(run.config, dtype=torch.float64), unbalanced_split(run.store)
    weights = class_weights(split.labels, 3, "inverse_frequency")
    assert weights is not None and len(set(weights.tolist())) > 1
    fusion = [value for name, value in supernet.named_parameters() if "classifier" not in name]
    groups = [{"params": fusion}, {"params": [value for name, value in supernet.named_parameters() if "cl" in name]}]
    plain: torch.optim.Optimizer = (
        torch.optim.SGD(groups, lr=0.0, momentum=0.9, weight_decay=recipe.weight_decay)
        if optimizer == "sgd"
        else torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999), weight_decay=recipe.weight_decay)
    )
    schedule = BatchSchedule(len(split), recipe.batch_size, seed_from(7, "supernet samples"))
    for step in range(STEPS):
        doubled, losses_of_all, total, scales = weights.double(), [], 0.0, []
        chosen = drawn(run, step)

        def logits_of(number: int, architecture: Architecture) -> tuple[Tensor, Tensor]:
            batch = split.batch(schedule.indices(number), reads_at(architecture.fusion_layer))
            features = Features(batch.image_tokens, batch.text_tokens, batch.text_mask)
            return supernet(features, architecture), batch.labels

        for place, (number, architecture) in enumerate(chosen):
            logits, labels = logits_of(number, architecture)
            loss = plain_loss(logits, labels, doubled, recipe.label_smoothing)
            if place and distillation:
                taught, _ = logits_of(number, chosen[0][1])
                apart = distance(logits, taught.detach(), labels, doubled)
                loss = (1 - distillation) * loss + distillation * apart
            losses_of_all.append(loss)
            total += float(doubled[labels].sum())
            scales.append((3 - architecture.fusion_layer) ** -0.5)
        loss = torch.stack(losses_of_all).sum() / total
        assert losses[step] == pytest.approx(loss.item(), rel=1e-6)
        plain.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(supernet.parameters(), 1.0)
        rate = 0.01 * learning_rate_factor(step, STEPS, recipe)
        plain.param_groups[0]["lr"], plain.param_groups[1]["lr"] = rate * sum(scales) / len(scales), rate
        plain.step()
    for (name, one), other in zip(trained.named_parameters(), supernet.parameters(), strict=True):
        assert (one - other).norm() <= 1e-6 * other.norm(), name


def test_one_architecture_a_step_is_a_plain_training_of_it(run: Run) -> None:
    supernet, split, recipe = fresh_supernet(run.config), unbalanced_split(run.store), run.config.recipe
    trainer = Trainer(model=supernet, recipe=recipe, step_count=STEPS, loss=loss_of(recipe, split.labels, 3))
    schedule = BatchSchedule(len(split), recipe.batch_size, seed_from(7, "supernet samples"))
    run, losses = replace(run, architectures_per_step=1), []
    for step in range(STEPS):
        ((number, architecture),) = drawn(run, step)
        samples = schedule.samples(split, number)
        parts = samples.parts(reads_at(architecture.fusion_layer))
        losses.append(trainer.step(step, parts, trainer.loss.total_weight(samples.labels), architecture))
    done, trained_losses = train(run, fresh_supernet(run.config))
    assert (done, trained_losses) == (STEPS, losses)
    state = checkpointed(run.checkpoint)
    assert_identical(dict(state["model"]), dict(supernet.state_dict()))
    assert_identical(state["optimizer"], trainer.optimizer.state_dict())


@pytest.mark.usefixtures("double_weights")
def test_micro_batches_change_nothing_beyond_rounding(run: Run) -> None:
    whole, cut = fresh_supernet(run.config, dtype=torch.float64), fresh_supernet(run.config, dtype=torch.float64)
    train(run, whole)
    run.checkpoint.unlink()
    asked: list[Architecture] = []

    def micro_batches(architecture: Architecture) -> int:
        asked.append(architecture)
        return 2 + architecture.fusion_layer

    train(run, cut, micro_batches=micro_batches)
    assert asked == [architecture for step in range(STEPS) for _, architecture in drawn(run, step)]
    for one, other in zip(whole.parameters(), cut.parameters(), strict=True):
        assert (one - other).norm() <= 1e-6 * one.norm()


def test_the_parameters_of_an_architecture_are_those_that_get_a_gradient(run: Run) -> None:
    supernet, split = fresh_supernet(run.config), unbalanced_split(run.store)
    trainer = Trainer(
        model=supernet, recipe=run.config.recipe, step_count=1, loss=Loss(None, run.config.recipe.label_smoothing)
    )
    for architecture in run.config.space:
        trainer.optimizer.zero_grad()
        trainer.accumulate_gradients([split.batch([0, 1], reads_at(architecture.fusion_layer))], 2.0, architecture)
        with_gradient = [parameter for parameter in supernet.parameters() if parameter.grad is not None]
        used = supernet.used_parameters(architecture)
        assert [id(parameter) for parameter in used] == [id(parameter) for parameter in with_gradient]


@pytest.mark.parametrize("size", [1, 2])
def test_what_no_architecture_of_a_training_uses_is_left_as_it_was(run: Run, tmp_path: Path, size: int) -> None:
    config = replace(run.config, recipe=replace(run.config.recipe, weight_decay=0.5))
    run = replace(run, config=config, architectures_per_step=2, least_fusion_layer=1)
    if size == 1:
        train(run, fresh_supernet(config))
    else:
        finished(train_together(run, size, tmp_path / "peers"))
    state, fresh = checkpointed(run.checkpoint), fresh_supernet(config).state_dict()
    is_unused = {name: name.startswith("fusion_layers.0.") for name in fresh}
    for name, before in fresh.items():
        assert torch.equal(state["model"][name], before) == (is_unused[name] or not before.numel()), name
    assert len(state["optimizer"]["state"]) == sum(not unused for unused in is_unused.values())


@pytest.mark.parametrize(("size", "size_after", "asks"), [(2, 3, 1), (3, 1, 0), (1, 2, 0)])
def test_all_stop_at_the_step_where_one_asks_and_any_number_goes_on_to_the_same_weights(
    run: Run, alone: Callable[..., dict[str, Any]], tmp_path: Path, size: int, size_after: int, asks: int
) -> None:
    outcomes = finished(train_together(replace(run, stop={asks: 3}), size, tmp_path / "before"))
    assert [outcome.done for outcome in outcomes] == [3] * size
    assert checkpointed(run.checkpoint)["step"] == 3
    outcomes = finished(train_together(run, size_after, tmp_path / "after"))
    assert [outcome.done for outcome in outcomes] == [STEPS] * size_after
    expected = alone()
    assert_identical(checkpointed(run.checkpoint), expected)
    for outcome in outcomes:
        assert_identical(outcome.state, dict(expected["model"]))


def kill(supernet: PMF) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def poison(supernet: PMF) -> None:
    with torch.no_grad():
        supernet.image_classifier.bias.fill_(float("nan"))


def run_out_of_memory(supernet: PMF) -> None:
    raise MemoryError("no memory left on this process")


def test_where_time_is_short_the_schedule_comes_to_its_end_with_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (outcome, other) = finished(train_together(replace(run, pace={0: 0.4, 1: 0.9}), 2, tmp_path / "peers"))
    assert outcome.done == other.done == 3
    together = checkpointed(run.checkpoint)
    run.checkpoint.unlink()
    positions, times = [], iter([0.0, 0.4, 0.8, 1.2])

    def factor(step: int, step_count: int, recipe: RecipeConfig) -> float:
        positions.append(step)
        return learning_rate_factor(step, step_count, recipe)

    monkeypatch.setattr("nas.training.trainer.learning_rate_factor", factor)
    assert train(run, fresh_supernet(run.config), time_share=lambda: next(times))[0] == 3
    assert positions == [int(share * STEPS) for share in (0.0, 0.4, 0.8)]
    assert_identical(checkpointed(run.checkpoint), together)
    # With more time it goes on from there, as late in the schedule as that says.
    positions.clear()
    assert train(run, fresh_supernet(run.config))[0] == STEPS
    assert positions == list(range(3, STEPS))


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_is_an_error_on_the_others_within_seconds(run: Run, tmp_path: Path, victim: int) -> None:
    started = time.monotonic()
    outcomes = train_together(replace(run, faults={victim: kill}), 2, tmp_path / "peers")
    assert time.monotonic() - started < PEER_SECONDS / 2
    assert outcomes[victim] is None
    survivor = outcomes[1 - victim]
    assert survivor is not None and isinstance(survivor.error, GroupBroken)


@pytest.mark.parametrize("size", [1, 2])
def test_a_loss_that_is_not_finite_is_an_error_on_all(run: Run, tmp_path: Path, size: int) -> None:
    outcomes = train_together(replace(run, faults={size - 1: poison}), size, tmp_path / "peers")
    for outcome in outcomes:
        assert outcome is not None and isinstance(outcome.error, TrainingError)
        assert "the loss is nan at step 0" in str(outcome.error)


def test_an_error_on_one_is_raised_there_and_ends_the_others_meanwhile(run: Run, tmp_path: Path) -> None:
    first, failed, last = train_together(replace(run, faults={1: run_out_of_memory}), 3, tmp_path / "peers")
    assert first is not None and failed is not None and last is not None
    assert str(failed.error) == "no memory left on this process"
    for other in (first, last):
        assert isinstance(other.error, GroupBroken) and other.ended_at < failed.ended_at


def test_a_damaged_checkpoint_is_an_error_on_all(run: Run, tmp_path: Path) -> None:
    run.checkpoint.write_bytes(b"no checkpoint")
    first, second = train_together(run, 2, tmp_path / "peers")
    assert first is not None and isinstance(first.error, StudyError)
    assert second is not None and isinstance(second.error, GroupBroken)


def test_a_checkpoint_that_cannot_be_written_is_an_error_and_leaves_the_old_one(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(run, fresh_supernet(run.config), should_stop=lambda: True)
    before = run.checkpoint.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        train(run, fresh_supernet(run.config))
    assert run.checkpoint.read_bytes() == before
    assert list(run.checkpoint.parent.iterdir()) == [run.checkpoint]


def test_a_damaged_checkpoint_is_one_error_that_names_it_or_harmless(run: Run) -> None:
    train(run, fresh_supernet(run.config), should_stop=lambda: True)
    whole, expected = run.checkpoint.read_bytes(), checkpointed(run.checkpoint)
    rng, flipped, messages = random.Random(0), [], []
    for _ in range(100):
        content = bytearray(whole)
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        flipped.append(bytes(content))
    for damaged in [b"", b"no checkpoint", whole[: len(whole) // 2], whole[:-1], whole[100:], *flipped]:
        run.checkpoint.write_bytes(damaged)
        try:
            train(run, fresh_supernet(run.config), should_stop=lambda: True)
        except StudyError as error:
            messages.append(str(error))
        else:  # the damage was in what fills the gaps between tensors
            assert_identical(checkpointed(run.checkpoint), expected)
    assert len(messages) > 50
    assert all(text.startswith(f"{run.checkpoint}: this checkpoint cannot be read") for text in messages)


@pytest.mark.parametrize(
    ("changes", "there", "here"),
    [
        ((STEPS + 1, 3), f"supernet.steps {STEPS}", f"supernet.steps {STEPS + 1}"),
        ((STEPS, 2), "supernet.architectures_per_step 3", "supernet.architectures_per_step 2"),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused(
    run: Run, changes: tuple[int, int], there: str, here: str
) -> None:
    train(run, fresh_supernet(run.config), should_stop=lambda: True)
    with pytest.raises(StudyError, match=f"{run.checkpoint}: .* made with .*{there}.*; expected .*{here}"):
        train(replace(run, architectures_per_step=changes[1]), fresh_supernet(run.config), step_count=changes[0])


def test_a_supernet_of_which_nothing_fits_is_an_error(run: Run) -> None:
    with pytest.raises(BudgetError, match=r"not even the smallest \("):
        train(replace(run, least_fusion_layer=9), fresh_supernet(run.config))
