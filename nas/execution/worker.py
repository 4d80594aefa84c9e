"""What a worker does with a job, wherever it runs: score a slice, train a slice, or train from fresh weights."""

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from nas.common.seeds import seed_from
from nas.config.schema import Config, LearningRatesConfig
from nas.data.features.store import FeatureStore
from nas.execution.base import SupernetJob, SupernetProgress
from nas.memory.measurement import (
    AllocatorWatch,
    MemoryWatch,
    keep_freed_memory,
    map_large_tensors,
    release_freed_memory,
)
from nas.memory.prediction import bytes_with_fragmentation
from nas.models.encoders.partial_checkpoint import load_tail
from nas.models.fusion.base import FusionModel
from nas.models.fusion.supernet import build_model, build_supernet, extract
from nas.search.keys import ModelKey
from nas.search.space import RAW
from nas.search.trial import Failure, Job, Result
from nas.training.checkpoint import load_weights, save_weights
from nas.training.distributed import GradientGroup
from nas.training.evaluate import forward_seconds, predict_logits, predict_population
from nas.training.metrics import evaluate_logits, load_torchmetrics
from nas.training.stopping import StopRequested
from nas.training.supernet import SupernetTraining, train_supernet
from nas.training.supernet_sampling import build_sampler
from nas.training.trainer import train

FROZEN = ("image_encoder.pt", "text_encoder.pt")
"""Files of a run directory that hold the frozen weights of the fusing layers."""

SUPERNET = "supernet.safetensors"
SUPERNET_CHECKPOINT = "supernet_checkpoint.pt"


def full_weights_path(run_directory: Path, key: ModelKey) -> Path:
    """Return the path of the weights of a full training."""
    return run_directory / "full" / f"{key.name}.safetensors"


@dataclass(frozen=True)
class WorkerSetup:
    """Everything that a worker needs to know; small, and the same for all workers of a search.

    Args:
        config: Of the search.
        image_config: Of the image encoder.
        text_config: Of the text encoder.
        first_layers: Of the image and the text encoder, the first that workers need.
        feature_directory: A complete feature store.
        run_directory: Holds the frozen weights and the supernet, and takes the weights of full trainings.
        thread_count: Threads of one worker.
        device: Where tensors are: `cpu`, or `cuda:0` for the one GPU that a worker sees.
    """

    config: Config
    image_config: PreTrainedConfig
    text_config: PreTrainedConfig
    first_layers: tuple[int, int]
    feature_directory: Path
    run_directory: Path
    thread_count: int
    device: str = "cpu"

    @property
    def frozen_paths(self) -> tuple[Path, Path]:
        """Weights of the image and the text encoder from their `first_layers` on."""
        image, text = FROZEN
        return self.run_directory / image, self.run_directory / text

    @property
    def supernet_path(self) -> Path:
        return self.run_directory / SUPERNET

    @property
    def checkpoint_path(self) -> Path:
        """Of the supernet while it is trained."""
        return self.run_directory / SUPERNET_CHECKPOINT

    def weights_path(self, key: ModelKey) -> Path:
        """Return the path of the weights of a full training."""
        return full_weights_path(self.run_directory, key)


def process_environment(thread_count: int) -> dict[str, str]:
    """Environment variables of a worker process; they have to be there before it starts.

    Args:
        thread_count: Threads of its computations.
    """
    tunables = [entry for entry in os.environ.get("GLIBC_TUNABLES", "").split(":") if entry]
    return {
        "OMP_NUM_THREADS": str(thread_count),
        "MKL_NUM_THREADS": str(thread_count),
        # One arena for all threads: the C library gives no other one's memory back between jobs.
        "MALLOC_ARENA_MAX": "1",
        # Where memory is short, large tensors are paged in anew all the time: in large pages, where there are any.
        "GLIBC_TUNABLES": ":".join([*tunables, "glibc.malloc.hugetlb=1"]),
        # Programs of 0.6 MB; by default 1,024 of them.
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
    }


class GrantExceeded(Exception):
    """The process holds more memory than it was granted."""


class CandidateWorker:
    """Runs one job at a time.

    A result depends on the configuration, the supernet, the architecture and the seed alone: never on the worker, nor
    on what it ran before.

    Args:
        setup: What it needs to know.
        on_exceeded: Called, from another thread, with the bytes held and granted when a job holds more than its grant;
            by default the job ends at its next step.
        base_bytes: Private memory of this process that is not the worker's: neither limited nor part of a peak.
    """

    def __init__(
        self,
        setup: WorkerSetup,
        on_exceeded: Callable[[int, int], None] | None = None,
        *,
        base_bytes: int = 0,
    ) -> None:
        torch.set_num_threads(setup.thread_count)
        map_large_tensors()
        load_torchmetrics()
        self.setup = setup
        self._on_exceeded = on_exceeded
        self._base_bytes = base_bytes
        self._device = torch.device(setup.device)
        self._image_encoder, self._text_encoder = (
            # A family that trains an encoder makes a copy of it; that one alone is on the device.
            load_tail(config, start, path, torch.device("cpu") if start == RAW else self._device)
            for config, start, path in zip(
                (setup.image_config, setup.text_config), setup.first_layers, setup.frozen_paths, strict=True
            )
        )
        self._store = FeatureStore(setup.feature_directory, (self._image_encoder, self._text_encoder))
        self._supernet: FusionModel | None = None
        self._supernet_steps = 0
        self._stop = threading.Event()
        self._exceeded_bytes = 0
        self._peak_bytes = 0

    def stop(self) -> None:
        """Ask the running job to end at its next step; it raises `nas.training.stopping.StopRequested`."""
        self._stop.set()

    def outcomes(
        self, job: Job, *, limit_bytes: int | None, should_stop: Callable[[], bool] = lambda: False
    ) -> list[Result | Failure]:
        """What every member of a job came to; a failure belongs to the member that fails by itself.

        Args:
            job: What to do.
            limit_bytes: Private memory that this process may hold meanwhile.
            should_stop: Asked before every step, beside `stop`.

        Raises:
            StopRequested: If it was stopped.
        """
        try:
            return list(self.run(job, limit_bytes=limit_bytes, should_stop=should_stop))
        except StopRequested:
            raise
        except GrantExceeded as error:
            if not job.companions:
                return [Failure(job, "memory", "out of memory", str(error), self._peak_bytes)]
        except Exception as error:  # whatever it is, it belongs to the candidate; whoever submitted it decides
            if not job.companions:
                return [Failure.of(job, error, self._peak_bytes)]
        return [
            outcome
            for member in job.members
            for outcome in self.outcomes(member, limit_bytes=limit_bytes, should_stop=should_stop)
        ]

    def run(
        self, job: Job, *, limit_bytes: int | None, should_stop: Callable[[], bool] = lambda: False
    ) -> list[Result]:
        """Do one job; returns the results of its members, in their order.

        Args:
            job: What to do.
            limit_bytes: Private memory that this process may hold meanwhile.
            should_stop: Asked before every step, beside `stop`.

        Raises:
            StopRequested: If it was stopped.
            GrantExceeded: If it held more than it may.
            TrainingError: If training diverged.
        """
        started = time.monotonic()
        validation = self._store.splits["validation"]
        with self._granted(limit_bytes, job.reserved_bytes, should_stop) as is_stopped:
            logits = self._score(job, is_stopped) if job.stage == "one_shot" else [self._train(job, is_stopped)]
            latencies = [self._latency_seconds(member) for member in job.members]
        seconds = (time.monotonic() - started) / len(logits)
        results = []
        for member, values, latency in zip(job.members, logits, latencies, strict=True):
            metrics = evaluate_logits(values, torch.from_numpy(validation.labels))
            results.append(
                Result(
                    key=member.key,
                    architecture=member.architecture,
                    stage=member.stage,
                    score=self.setup.config.search.score_of(member.stage, metrics),
                    metrics=metrics,
                    step_count=member.step_count,
                    supernet_steps=0 if job.stage == "full" else self._supernet_steps,
                    seed=member.seed,
                    seconds=seconds,
                    predicted_peak_bytes=member.predicted_peak_bytes,
                    measured_peak_bytes=self._peak_bytes,
                    micro_batches=member.micro_batches,
                    latency_seconds=latency,
                    kept_freed_memory=self._keeps_freed_memory,
                )
            )
        return results

    def _latency_seconds(self, job: Job) -> float | None:
        """Of a forward pass from the base features, in which alone architectures differ; None where nobody asks.

        The least of several: what others do on the machine can only make it longer.
        """
        search = self.setup.config.search
        if not search.wants_latency:
            return None
        split = self._store.splits["validation"]
        size = min(search.latency_batch, len(split))
        model = self._fresh_model(job) if job.stage == "full" else self._inherited()
        return forward_seconds(model, split, job.architecture, size)

    @contextmanager
    def _granted(
        self, limit_bytes: int | None, needed_bytes: int, should_stop: Callable[[], bool]
    ) -> Iterator[Callable[[], bool]]:
        """Holds this process to its grant; gives what is to be asked before every step.

        Where the grant has room for it, freed memory is kept, which is faster.
        """
        self._stop.clear()
        self._exceeded_bytes = 0
        is_ample = limit_bytes is None or limit_bytes >= bytes_with_fragmentation(needed_bytes)
        self._keeps_freed_memory = is_ample and self._device.type == "cpu"
        (keep_freed_memory if self._keeps_freed_memory else map_large_tensors)()

        def is_stopped() -> bool:
            if self._exceeded_bytes:
                raise GrantExceeded(f"{self._exceeded_bytes} bytes held, {limit_bytes} granted")
            return self._stop.is_set() or should_stop()

        def note_exceeded(held_bytes: int) -> None:
            self._exceeded_bytes = held_bytes - self._base_bytes
            if self._on_exceeded is not None:
                self._on_exceeded(self._exceeded_bytes, limit_bytes or 0)

        watch = self._watch(limit_bytes, note_exceeded)
        try:
            with watch:
                yield is_stopped
        finally:
            self._peak_bytes = max(watch.peak_bytes - self._base_bytes, 0)
            release_freed_memory()  # what an idle worker holds is counted as well

    def _watch(self, limit_bytes: int | None, on_exceeded: Callable[[int], None]) -> MemoryWatch | AllocatorWatch:
        """Measures the peak and holds the process to its grant: the allocator itself does so on a GPU."""
        if self._device.type == "cpu":
            return MemoryWatch(None if limit_bytes is None else self._base_bytes + limit_bytes, on_exceeded)
        total_bytes = torch.cuda.get_device_properties(self._device).total_memory
        share = 1.0 if limit_bytes is None else min(limit_bytes / total_bytes, 1.0)
        torch.cuda.set_per_process_memory_fraction(share, self._device)
        return AllocatorWatch(self._device)

    def _score(self, job: Job, should_stop: Callable[[], bool]) -> list[Tensor]:
        """Logits on validation of every member, with the supernet's weights as they are."""
        logits: dict[ModelKey, Tensor] = {}
        # Together with those of its own batch size only, so that a score is the same whoever else is in the job.
        for size in sorted({self._batch_size(member) for member in job.members}):
            members = [member for member in job.members if self._batch_size(member) == size]
            values = predict_population(
                self._inherited(),
                self._store.splits["validation"],
                [member.architecture for member in members],
                batch_size=size,
                should_stop=should_stop,
            )
            logits |= zip([member.key for member in members], values, strict=True)
        return [logits[member.key] for member in job.members]

    def _batch_size(self, job: Job) -> int:
        """Samples that are computed at a time, so that they fit."""
        return math.ceil(self.setup.config.recipe.batch_size / job.micro_batches)

    def _train(self, job: Job, should_stop: Callable[[], bool]) -> Tensor:
        """Logits on validation after training."""
        model = self._fresh_model(job) if job.stage == "full" else self._slice(job)
        recipe = self.setup.config.recipe
        if job.learning_rate is not None:
            # Of everything alike: not scaled by how many layers have prompts.
            recipe = replace(recipe, learning_rates=LearningRatesConfig.of_all(job.learning_rate), depth_scaling=0.0)
        if job.stage == "short":
            scale = self.setup.config.search.short_training_lr_scale
            recipe = replace(recipe, learning_rates=recipe.learning_rates.scaled(scale))
        train(
            model=model,
            split=self._store.splits["train"],
            recipe=recipe,
            step_count=job.step_count,
            seed=job.seed,
            micro_batches=job.micro_batches,
            should_stop=should_stop,
        )
        validation = self._store.splits["validation"]
        logits = predict_logits(model, validation, batch_size=self._batch_size(job), should_stop=should_stop)
        if job.stage == "full":
            save_weights(self.setup.weights_path(job.key), model)
        return logits

    def _slice(self, job: Job) -> FusionModel:
        return extract(self._inherited(), job.architecture).to(self._device)

    def _fresh_model(self, job: Job) -> FusionModel:
        return build_model(
            image_encoder=self._image_encoder,
            text_encoder=self._text_encoder,
            architecture=job.architecture,
            num_classes=len(self._store.class_names),
            seed=seed_from(job.seed, "weights"),
        ).to(self._device)

    def train_supernet(
        self,
        order: SupernetJob,
        group: GradientGroup,
        *,
        limit_bytes: int | None,
        on_progress: Callable[[SupernetProgress], None],
        should_stop: Callable[[], bool] = lambda: False,
    ) -> int:
        """This process's part in training the supernet; the first of the group writes checkpoints and the result.

        Args:
            order: What may be sampled.
            group: The processes that share the work.
            limit_bytes: Private memory that this process may hold meanwhile.
            on_progress: Told after every step.
            should_stop: Asked before every step, beside `stop`; training then ends early, saved.

        Returns:
            Steps done in all.

        Raises:
            GrantExceeded: If it held more than it may.
            NasError: If it cannot be trained.
        """
        self._supernet = None  # the next job reads what is saved here
        with self._granted(limit_bytes, order.peak_bytes, should_stop) as is_stopped:
            return self._train_supernet(order, group, on_progress, is_stopped)

    def _train_supernet(
        self,
        order: SupernetJob,
        group: GradientGroup,
        on_progress: Callable[[SupernetProgress], None],
        should_stop: Callable[[], bool],
    ) -> int:
        setup, config = self.setup, self.setup.config
        supernet = self._build_supernet(seed_from(config.seed, "supernet"))
        started = time.time()

        def elapsed_fraction() -> float:
            if order.deadline is None:
                return 0.0
            return (time.time() - started) / max(order.deadline - started, 1e-3)

        training = SupernetTraining(
            split=self._store.splits["train"],
            sampler=build_sampler(
                config.supernet.sampling,
                space=config.space,
                count=config.supernet.architectures_per_step,
                seed=config.seed,
                is_feasible=order.is_feasible,
            ),
            recipe=config.recipe,
            step_count=config.supernet.steps,
            seed=config.seed,
            checkpoint_path=setup.checkpoint_path,
            checkpoint_steps=config.supernet.checkpoint_steps,
            distillation=config.supernet.distillation,
            micro_batches=order.parts,
        )
        done = train_supernet(
            supernet,
            training,
            group=group,
            should_stop=should_stop,
            on_step=lambda step, loss: on_progress(SupernetProgress(step, loss)),
            elapsed_fraction=elapsed_fraction,
        )
        if group.rank == 0:
            save_weights(setup.supernet_path, supernet, steps=str(done))
            if done == config.supernet.steps:
                setup.checkpoint_path.unlink()
        return done

    def _build_supernet(self, seed: int) -> FusionModel:
        return build_supernet(
            image_encoder=self._image_encoder,
            text_encoder=self._text_encoder,
            space=self.setup.config.space,
            num_classes=len(self._store.class_names),
            seed=seed,
        ).to(self._device)

    def _inherited(self) -> FusionModel:
        """The trained supernet."""
        if self._supernet is None:
            self._supernet = self._build_supernet(seed=0)
            self._supernet_steps = int(load_weights(self.setup.supernet_path, self._supernet)["steps"])
        return self._supernet
