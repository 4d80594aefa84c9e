"""Run the jobs of a search: score a candidate with the supernet's weights, train it on, or train it from scratch."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from nas.common.devices import is_accelerator, use_deterministic_kernels
from nas.common.seeds import seed_from
from nas.data.features.raw_images import AT_ONCE_BYTES, open_raw_images
from nas.data.features.store import FeatureStore
from nas.execution.base import SupernetJob, SupernetProgress
from nas.execution.grant import GrantExceeded, MemoryGrant
from nas.execution.special_jobs import special_result
from nas.execution.supernet_job import supernet_training
from nas.execution.training_job import batch_size_of, train_model
from nas.execution.worker_setup import WorkerSetup
from nas.memory.measurement import map_large_tensors
from nas.models.encoders.partial_checkpoint import load_tail
from nas.models.fusion.base import FusionModel
from nas.models.fusion.supernet import build_model, build_supernet, extract
from nas.search.keys import ModelKey, SpeedKey, TeacherKey
from nas.search.space import RAW
from nas.search.trial import Failure, Job, Result
from nas.training.checkpoint import load_weights, save_weights
from nas.training.distributed import GradientGroup, GroupBroken, SingleProcessGroup
from nas.training.evaluate import forward_seconds, predict_population
from nas.training.loss_curve import LossCurve
from nas.training.metrics import evaluate_logits, load_torchmetrics
from nas.training.search_share import searched_split
from nas.training.stopping import StopRequested
from nas.training.supernet import train_supernet


def _never() -> bool:
    return False


class CandidateWorker:
    """Runs one job at a time.

    A result depends only on the configuration, the supernet, the architecture and the seed: neither on the worker nor
    on the jobs that it ran before.

    Args:
        setup: The description of the work.
        on_exceeded: Callback that receives, in another thread, the bytes held and granted when a job exceeds its grant;
            by default the job ends at its next step.
        base_bytes: Private memory of this process that does not belong to the worker: neither limited nor measured.
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
        self._device, self._precision = torch.device(setup.device), setup.config.recipe.precision
        if setup.config.deterministic:
            use_deterministic_kernels(self._device)
        self._grant = MemoryGrant(self._device, base_bytes, on_exceeded, setup.worker_count)
        self._image_encoder, self._text_encoder = (
            # A family that trains an encoder copies it; only the copy is moved to the device.
            load_tail(config, start, path, torch.device("cpu") if start == RAW else self._device)
            for config, start, path in zip(setup.encoder_configs, setup.first_layers, setup.frozen_paths, strict=True)
        )
        self._store = self.open_features(setup.feature_directory)
        self._searched = searched_split(setup.config, self._store.splits["train"])
        self._supernet: FusionModel | None = None
        self._supernet_steps = 0
        self._stop = threading.Event()
        self.curve: LossCurve | None = None
        """The learning curve of the last training, which may be running."""

    def open_features(self, directory: Path) -> FeatureStore:
        """Return a complete feature store, opened for the encoders of this worker."""
        config, images = self.setup.config, None
        if config.features.storage == "none":
            # The memory of a GPU holds no pictures; that of the host is counted, and is what a worker is granted.
            limit = None if is_accelerator(self._device) else AT_ONCE_BYTES
            images = open_raw_images(config.data, config.encoders.image, self.setup.thread_count, limit)
        return FeatureStore(directory, (self._image_encoder, self._text_encoder), images)

    def stop(self) -> None:
        """Stop the running job at its next step; it raises `nas.training.stopping.StopRequested`."""
        self._stop.set()

    def outcomes(
        self,
        job: Job,
        *,
        limit_bytes: int | None,
        group: GradientGroup | None = None,
        should_stop: Callable[[], bool] = _never,
    ) -> list[Result | Failure]:
        """Run a job and return the outcome of every member.

        If a job with several members fails, each member is run separately, so that only the cause is blamed.

        Args:
            job: The job to run.
            limit_bytes: Private memory that this process may hold during the job; None for no limit.
            group: The processes that share the training; see `run`.
            should_stop: Called before every step, in addition to `stop`.

        Raises:
            StopRequested: If the job was stopped.
            GroupBroken: If another process of the group failed or died.
        """
        try:
            return list(self.run(job, limit_bytes=limit_bytes, group=group, should_stop=should_stop))
        except (StopRequested, GroupBroken):
            raise
        except GrantExceeded as error:
            if not job.companions:
                return [Failure(job, "memory", "out of memory", str(error), self._grant.peak_bytes)]
        except Exception as error:  # of any kind: the failure policy of the caller decides
            if not job.companions:
                return [Failure.of(job, error, self._grant.peak_bytes)]
        return [
            outcome
            for member in job.members
            for outcome in self.outcomes(member, limit_bytes=limit_bytes, should_stop=should_stop)
        ]

    def run(
        self,
        job: Job,
        *,
        limit_bytes: int | None,
        group: GradientGroup | None = None,
        should_stop: Callable[[], bool] = _never,
    ) -> list[Result]:
        """Run a job and return the results of its members, in their order.

        Args:
            job: The job to run.
            limit_bytes: Private memory that this process may hold during the job; None for no limit.
            group: The processes that share the training, each of which runs the job; by default this one. The first
                evaluates and saves the model, and the others have no result.
            should_stop: Called before every step, in addition to `stop`.

        Raises:
            StopRequested: If the job was stopped.
            GrantExceeded: If the process held more memory than its limit.
            TrainingError: If training diverged.
            GroupBroken: If another process of the group failed or died.
        """
        started, group = time.monotonic(), group or SingleProcessGroup()
        self._stop.clear()
        is_stopped = self._stop_condition(should_stop)
        with self._grant.limit(limit_bytes, job.reserved_bytes):
            if isinstance(job.key, SpeedKey | TeacherKey):
                return [special_result(job, self.setup, self._store.splits, self.fresh_model, is_stopped)]
            logits = self._score(job, is_stopped) if job.stage == "one_shot" else self._train(job, group, is_stopped)
            if group.rank:
                return []
            latencies = [self._latency_seconds(member) for member in job.members]
        seconds = (time.monotonic() - started) / len(logits)
        results = [
            self._result(member, values, latency, seconds)
            for member, values, latency in zip(job.members, logits, latencies, strict=True)
        ]
        return results if group.size == 1 else [replace(result, device_count=group.size) for result in results]

    def _stop_condition(self, should_stop: Callable[[], bool]) -> Callable[[], bool]:
        """Return the function that is called before every step."""

        def is_stopped() -> bool:
            self._grant.check()
            return self._stop.is_set() or should_stop()

        return is_stopped

    def _result(self, job: Job, logits: Tensor, latency: float | None, seconds: float) -> Result:
        metrics = evaluate_logits(logits, torch.from_numpy(self._store.splits["validation"].labels))
        return Result(
            key=job.key,
            architecture=job.architecture,
            stage=job.stage,
            score=self.setup.config.search.score_of(job.stage, metrics),
            metrics=metrics,
            step_count=job.step_count,
            supernet_steps=0 if job.stage == "full" else self._supernet_steps,
            seed=job.seed,
            seconds=seconds,
            predicted_peak_bytes=job.predicted_peak_bytes,
            measured_peak_bytes=self._grant.peak_bytes,
            micro_batches=job.micro_batches,
            latency_seconds=latency,
            kept_freed_memory=self._grant.keeps_freed_memory,
            precision=self._precision,
        )

    def _latency_seconds(self, job: Job) -> float | None:
        """Return the seconds of a forward pass from the base features; None if the search does not use them.

        It is the minimum of several passes, because other processes can only slow a pass down.
        """
        search = self.setup.config.search
        if not search.wants_latency:
            return None
        split = self._store.splits["validation"]
        size = min(search.latency_batch, len(split))
        model = self.fresh_model(job) if job.stage == "full" else self.supernet()
        return forward_seconds(model, split, job.architecture, size, precision=self._precision)

    def _score(self, job: Job, should_stop: Callable[[], bool]) -> list[Tensor]:
        """Return the validation logits of every member with the supernet's weights."""
        logits: dict[ModelKey, Tensor] = {}
        # Only members with the same batch size run together, so that a score does not depend on the other members.
        config = self.setup.config
        for size in sorted({batch_size_of(member, config) for member in job.members}):
            members = [member for member in job.members if batch_size_of(member, config) == size]
            values = predict_population(
                self.supernet(),
                self._store.splits["validation"],
                [member.architecture for member in members],
                batch_size=size,
                precision=self._precision,
                should_stop=should_stop,
            )
            logits |= zip([member.key for member in members], values, strict=True)
        return [logits[member.key] for member in job.members]

    def _train(self, job: Job, group: GradientGroup, should_stop: Callable[[], bool]) -> list[Tensor]:
        """Train the model of a job and return its validation logits; none in a process other than the first."""
        is_short = job.stage == "short"
        split = self._searched if is_short else self._store.splits["train"]
        model = extract(self.supernet(), job.architecture).to(self._device) if is_short else self.fresh_model(job)
        logits = train_model(
            job,
            model,
            split,
            self._store.splits["validation"],
            self.setup,
            group=group,
            should_stop=should_stop,
            on_start=self._follow,
        )
        return [] if logits is None else [logits]

    def _follow(self, curve: LossCurve) -> None:
        self.curve = curve

    def fresh_model(self, job: Job) -> FusionModel:
        """Return the model of a job with the weights that its seed gives it."""
        return build_model(
            image_encoder=self._image_encoder,
            text_encoder=self._text_encoder,
            architecture=job.architecture,
            num_classes=len(self._store.class_names),
            seed=seed_from(job.seed, "weights"),
            class_texts=self.setup.class_texts,
        ).to(self._device)

    def train_supernet(
        self,
        job: SupernetJob,
        group: GradientGroup,
        *,
        limit_bytes: int | None,
        on_progress: Callable[[SupernetProgress], None],
        should_stop: Callable[[], bool] = _never,
    ) -> int:
        """Do this process's part of the training of the supernet.

        The first process of the group writes the checkpoints and the trained supernet.

        Args:
            job: The architectures that may be sampled.
            group: The processes that share the work.
            limit_bytes: Private memory that this process may hold during the job; None for no limit.
            on_progress: Callback that receives the progress after every step.
            should_stop: Called before every step, in addition to `stop`; training then ends early and is saved.

        Returns:
            The number of steps done, those of earlier calls included.

        Raises:
            GrantExceeded: If the process held more memory than its limit.
            NasError: If the supernet cannot be trained.
        """
        self._supernet = None  # the next job loads the supernet that is saved here
        self._stop.clear()
        with self._grant.limit(limit_bytes, job.peak_bytes):
            return self._train_supernet(job, group, on_progress, self._stop_condition(should_stop))

    def _train_supernet(
        self,
        job: SupernetJob,
        group: GradientGroup,
        on_progress: Callable[[SupernetProgress], None],
        should_stop: Callable[[], bool],
    ) -> int:
        setup, config = self.setup, self.setup.config
        supernet = self._build_supernet(seed_from(config.seed, "supernet"))
        started = time.monotonic()
        training = supernet_training(setup, job, self._searched)
        step_samples = training.recipe.batch_size * training.sampler.count
        curve = LossCurve("supernet", training.step_count, len(training.split) / step_samples)

        def elapsed_fraction() -> float:
            return 0.0 if job.seconds_left is None else (time.monotonic() - started) / max(job.seconds_left, 1e-3)

        def on_step(step: int, loss: float) -> None:
            curve.add(step, loss)
            on_progress(SupernetProgress(step, loss, curve.points))

        done = train_supernet(
            supernet,
            training,
            group=group,
            should_stop=should_stop,
            on_step=on_step,
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
            class_texts=self.setup.class_texts,
        ).to(self._device)

    def supernet(self) -> FusionModel:
        """Return the trained supernet, which is loaded at the first call."""
        if self._supernet is None:
            self._supernet = self._build_supernet(seed=0)
            self._supernet_steps = int(load_weights(self.setup.supernet_path, self._supernet)["steps"])
        return self._supernet
