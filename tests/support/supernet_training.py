"""Supernet trainings of the little project, in this process and in groups of processes."""

import multiprocessing
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nas.config.schema import Config
from nas.data.features.store import FeatureSplit, FeatureStore
from nas.models.fusion.base import FusionModel
from nas.models.fusion.supernet import build_supernet
from nas.search.space import Architecture
from nas.training.distributed import GradientGroup, GroupBroken, distributed_group, free_address
from nas.training.supernet import SupernetTraining, train_supernet
from nas.training.supernet_sampling import Sampler, build_sampler
from tests.support.tiny import encoders

STEPS = 5
SEED = 7
PROCESS_SECONDS = 60.0
"""Longest run of a process, after which it is killed and counts as lost."""
GROUP_SECONDS = 10 * PROCESS_SECONDS
"""Timeout of a group: longer than its processes may run, so that no test passes because of it."""


@dataclass(frozen=True)
class TrainingCase:
    """A training of the supernet that can be sent to the processes of a group.

    Args:
        config: The configuration of the little project.
        store: The directory of its features.
        checkpoint: Path of the checkpoint.
        architectures_per_step: The number of architectures per step.
        step_count: The total number of steps.
        stop_after: The number of steps after which a rank requests a stop.
        pace: The fraction of the available time that a step takes by the clock of a rank.
        faults: The function that damages the training of a rank when it first computes gradients.
        outlasts_others: Whether a process that fails stays in its group until the others have ended.
        least_fusion_layer: The first fusion layer that is feasible.
        sampling: The name of the sampler.
        distillation: The weight of the distillation loss.
    """

    config: Config
    store: Path
    checkpoint: Path
    architectures_per_step: int = 3
    step_count: int = STEPS
    stop_after: dict[int, int] = field(default_factory=dict)
    pace: dict[int, float] = field(default_factory=dict)
    faults: dict[int, Callable[[FusionModel], None]] = field(default_factory=dict)
    outlasts_others: bool = False
    least_fusion_layer: int = 0
    sampling: str = "uniform"
    distillation: float = 0.0

    @property
    def sampler(self) -> Sampler:
        return build_sampler(
            self.sampling,
            space=self.config.space,
            count=self.architectures_per_step,
            seed=SEED,
            is_feasible=lambda architecture: architecture.first_layer >= self.least_fusion_layer,
        )

    def drawn(self, step: int) -> list[tuple[int, Architecture]]:
        """Return the batch number and the architecture of everything that a step trains."""
        count = self.architectures_per_step
        return list(zip(range(step * count, (step + 1) * count), self.sampler.step(step), strict=True))


@dataclass
class ProcessOutcome:
    """The result of one process.

    Args:
        done: The number of finished steps.
        losses: The losses reported by `on_step`.
        state: The weights of the supernet at the end.
        error: The error raised by the training.
        has_outlasted_others: Whether the other processes ended while this one was still in the group.
    """

    done: int = 0
    losses: list[float] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)
    error: Exception | None = None
    has_outlasted_others: bool = False


def fresh_supernet(config: Config, seed: int = 1, dtype: torch.dtype = torch.float32) -> FusionModel:
    image_encoder, text_encoder = (encoder.to(dtype) for encoder in encoders())
    return build_supernet(
        image_encoder=image_encoder, text_encoder=text_encoder, space=config.space, num_classes=3, seed=seed
    ).to(dtype)


def unbalanced_split(store: Path) -> FeatureSplit:
    """Return the training samples with labels of unequal frequency."""
    split = FeatureStore(store).splits["train"]
    split.labels = np.where(np.arange(len(split)) % 4 == 0, 0, split.labels)
    return split


def train_case(
    case: TrainingCase,
    supernet: FusionModel,
    *,
    micro_batches: Callable[[Architecture], int] = lambda architecture: 1,
    group: GradientGroup | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    elapsed_fraction: Callable[[], float] = lambda: 0.0,
) -> tuple[int, list[float]]:
    """Train a supernet as the case defines; return the number of finished steps and the losses."""
    losses: list[float] = []
    training = SupernetTraining(
        split=unbalanced_split(case.store),
        sampler=case.sampler,
        recipe=case.config.recipe,
        step_count=case.step_count,
        seed=SEED,
        checkpoint_path=case.checkpoint,
        checkpoint_steps=2,
        distillation=case.distillation,
        micro_batches=micro_batches,
    )
    done = train_supernet(
        supernet,
        training,
        group=group,
        should_stop=should_stop,
        on_step=lambda step, loss: losses.append(loss),
        elapsed_fraction=elapsed_fraction,
    )
    return done, losses


def train_in_processes(case: TrainingCase, size: int, directory: Path) -> list[ProcessOutcome | None]:
    """Train in a group of processes; return the outcomes by rank, None for a process that was killed."""
    directory.mkdir()
    address, paths = free_address(), [directory / f"{rank}.pt" for rank in range(size)]
    processes = [_PROCESSES.Process(target=_run_process, args=(case, rank, address, paths)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PROCESS_SECONDS)
        process.kill()
        process.join()
    return [torch.load(path, weights_only=False) if path.exists() else None for path in paths]


def finished(outcomes: Sequence[ProcessOutcome | None]) -> list[ProcessOutcome]:
    """Return the outcomes of processes that all finished without an error."""
    assert all(outcome is not None and outcome.error is None for outcome in outcomes), outcomes
    return [outcome for outcome in outcomes if outcome is not None]


def load_checkpoint(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def assert_identical(one: Any, other: Any) -> None:
    """Assert that two nested values are equal to the last bit."""
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


def _run_process(case: TrainingCase, rank: int, address: str, paths: Sequence[Path]) -> None:
    """Run one process of a group; write its outcome to its path."""
    torch.set_num_threads(1)
    # Different initial weights and no checkpoint on the other ranks: everything has to come from rank 0.
    supernet = fresh_supernet(case.config, seed=1 if rank == 0 else 1000 + rank)
    checkpoint = case.checkpoint if rank == 0 else paths[rank].with_name(f"rank_{rank}_has_none.pt")
    outcome, calls, faults = ProcessOutcome(), 0, dict(case.faults)

    def should_stop() -> bool:
        nonlocal calls
        calls += 1
        return case.stop_after.get(rank, case.step_count) < calls

    def micro_batches(architecture: Architecture) -> int:
        if fault := faults.pop(rank, None):
            fault(supernet)
        return 1

    try:
        with distributed_group(rank=rank, size=len(paths), address=address, timeout_seconds=GROUP_SECONDS) as group:
            try:
                outcome.done, outcome.losses = train_case(
                    replace(case, checkpoint=checkpoint),
                    supernet,
                    should_stop=should_stop,
                    micro_batches=micro_batches,
                    group=group,
                    elapsed_fraction=lambda: case.pace.get(rank, 0.0) * (calls - 1),
                )
            except Exception as error:
                outcome.error = error
                if case.outlasts_others and not isinstance(error, GroupBroken):
                    outcome.has_outlasted_others = _appear(path for path in paths if path != paths[rank])
    except GroupBroken as error:  # another process was lost before this one had joined
        outcome.error = error
    outcome.state = dict(supernet.state_dict())
    assert rank == 0 or not checkpoint.exists()
    torch.save(outcome, paths[rank])


def _appear(paths: Iterable[Path]) -> bool:
    """Wait until all files exist; return whether they do."""
    missing, deadline = list(paths), time.monotonic() + PROCESS_SECONDS / 2
    while missing and time.monotonic() < deadline:
        time.sleep(0.02)
        missing = [path for path in missing if not path.exists()]
    return not missing


# Forked from a process that has imported everything and has not started any thread.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload([__name__])
