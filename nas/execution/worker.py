"""What a worker does with a job, wherever it runs: score a slice, train a slice, or train from fresh weights."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from nas.config import Config
from nas.data import FeatureStore
from nas.encoders import load_encoder
from nas.fusion import PMF, build_model, build_supernet, extract
from nas.memory import PeakSampler, release_freed_memory
from nas.metrics import evaluate_logits
from nas.results import Job, Result
from nas.training import predict_logits, seed_from, train
from nas.weights import load_weights, save_weights


def full_weights_path(run_directory: Path, trial: int) -> Path:
    """Where the weights of a candidate's full training are kept."""
    return run_directory / "full" / f"trial_{trial}.safetensors"


@dataclass(frozen=True)
class WorkerSetup:
    """Everything that a worker needs to know; small, and the same for all workers of a search.

    Args:
        config: Of the search.
        image_checkpoint: Resolved image encoder.
        text_checkpoint: Resolved text encoder.
        feature_directory: A complete feature store.
        run_directory: Holds the supernet, and takes the weights of full trainings.
        thread_count: Threads of one worker.
    """

    config: Config
    image_checkpoint: str
    text_checkpoint: str
    feature_directory: Path
    run_directory: Path
    thread_count: int

    @property
    def supernet_path(self) -> Path:
        return self.run_directory / "supernet.safetensors"

    def weights_path(self, trial: int) -> Path:
        """Where the weights of a candidate's full training are kept."""
        return full_weights_path(self.run_directory, trial)


class CandidateWorker:
    """Runs one job at a time.

    A result depends on the configuration, the supernet, the architecture and the seed alone: never on the worker, nor
    on what it ran before.
    """

    def __init__(self, setup: WorkerSetup) -> None:
        torch.set_num_threads(setup.thread_count)
        self.setup = setup
        self._image_encoder = load_encoder(setup.image_checkpoint, "image")
        self._text_encoder = load_encoder(setup.text_checkpoint, "text")
        self._store = FeatureStore(setup.feature_directory)
        self._supernet: PMF | None = None
        self._supernet_steps = 0
        self._stop = threading.Event()

    def stop(self) -> None:
        """Ask the running job to end at its next step; it raises `nas.training.Stopped`."""
        self._stop.set()

    def run(self, job: Job, should_stop: Callable[[], bool] = lambda: False) -> Result:
        """Do one job.

        Args:
            job: What to do.
            should_stop: Asked before every step, beside `stop`.

        Raises:
            Stopped: If it was stopped.
            TrainingError: If training diverged.
        """
        started = time.monotonic()
        release_freed_memory()
        self._stop.clear()

        def is_stopped() -> bool:
            return self._stop.is_set() or should_stop()

        recipe = self.setup.config.recipe
        with PeakSampler() as peak:
            model = self._fresh_model(job) if job.stage == "full" else self._inherited_model(job)
            if job.step_count:
                train(
                    model=model,
                    split=self._store.splits["train"],
                    recipe=recipe,
                    step_count=job.step_count,
                    seed=job.seed,
                    should_stop=is_stopped,
                )
            validation = self._store.splits["validation"]
            logits = predict_logits(model, validation, batch_size=recipe.batch_size, should_stop=is_stopped)
        metrics = evaluate_logits(logits, torch.from_numpy(validation.labels))
        if job.stage == "full":
            save_weights(self.setup.weights_path(job.trial), model)
        return Result(
            trial=job.trial,
            architecture=job.architecture,
            stage=job.stage,
            score=metrics[self.setup.config.search.objective],
            metrics=metrics,
            step_count=job.step_count,
            supernet_steps=0 if job.stage == "full" else self._supernet_steps,
            seed=job.seed,
            seconds=time.monotonic() - started,
            predicted_peak_bytes=job.predicted_peak_bytes,
            measured_peak_bytes=peak.peak_bytes,
        )

    def _fresh_model(self, job: Job) -> PMF:
        return build_model(
            image_encoder=self._image_encoder,
            text_encoder=self._text_encoder,
            architecture=job.architecture,
            class_count=len(self._store.class_names),
            seed=seed_from(job.seed, "weights"),
        )

    def _inherited_model(self, job: Job) -> PMF:
        if self._supernet is None:
            self._supernet = build_supernet(
                image_encoder=self._image_encoder,
                text_encoder=self._text_encoder,
                space=self.setup.config.space,
                class_count=len(self._store.class_names),
                seed=0,
            )
            self._supernet_steps = int(load_weights(self.setup.supernet_path, self._supernet)["steps"])
        return extract(self._supernet, job.architecture)
