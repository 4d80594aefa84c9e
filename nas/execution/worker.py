"""What a worker does with a job, wherever it runs: score a slice, train a slice, or train from fresh weights."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from nas.config import Config
from nas.data import FeatureStore
from nas.encoders import load_tail
from nas.fusion import PMF, build_model, build_supernet, extract
from nas.memory import PeakSampler, keep_freed_memory, release_freed_memory
from nas.metrics import evaluate_logits
from nas.results import Failure, Job, Result
from nas.training import Stopped, predict_logits, predict_population, seed_from, train
from nas.weights import load_weights, save_weights

FROZEN = ("image_encoder.pt", "text_encoder.pt")
"""Files of a run directory that hold the frozen weights of the fusing layers."""


def full_weights_path(run_directory: Path, trial: int) -> Path:
    """Where the weights of a candidate's full training are kept."""
    return run_directory / "full" / f"trial_{trial}.safetensors"


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
    """

    config: Config
    image_config: PreTrainedConfig
    text_config: PreTrainedConfig
    first_layers: tuple[int, int]
    feature_directory: Path
    run_directory: Path
    thread_count: int

    @property
    def frozen_paths(self) -> tuple[Path, Path]:
        """Weights of the image and the text encoder from their `first_layers` on."""
        image, text = FROZEN
        return self.run_directory / image, self.run_directory / text

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
        keep_freed_memory()
        self.setup = setup
        self._image_encoder, self._text_encoder = (
            load_tail(config, start, path)
            for config, start, path in zip(
                (setup.image_config, setup.text_config), setup.first_layers, setup.frozen_paths, strict=True
            )
        )
        self._store = FeatureStore(setup.feature_directory, (self._image_encoder, self._text_encoder))
        self._supernet: PMF | None = None
        self._supernet_steps = 0
        self._stop = threading.Event()

    def stop(self) -> None:
        """Ask the running job to end at its next step; it raises `nas.training.Stopped`."""
        self._stop.set()

    def outcomes(self, job: Job, should_stop: Callable[[], bool] = lambda: False) -> list[Result | Failure]:
        """What every member of a job came to; a failure belongs to the member that fails by itself.

        Args:
            job: What to do.
            should_stop: Asked before every step, beside `stop`.

        Raises:
            Stopped: If it was stopped.
        """
        try:
            return list(self.run(job, should_stop))
        except Stopped:
            raise
        except Exception as error:  # whatever it is, it belongs to the candidate; whoever submitted it decides
            if not job.companions:
                return [Failure.of(job, error)]
        return [outcome for member in job.members for outcome in self.outcomes(member, should_stop)]

    def run(self, job: Job, should_stop: Callable[[], bool] = lambda: False) -> list[Result]:
        """Do one job; returns the results of its members, in their order.

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

        validation = self._store.splits["validation"]
        with PeakSampler() as peak:
            logits = self._score(job, is_stopped) if job.stage == "inherited" else [self._train(job, is_stopped)]
        seconds = (time.monotonic() - started) / len(logits)
        results = []
        for member, values in zip(job.members, logits, strict=True):
            metrics = evaluate_logits(values, torch.from_numpy(validation.labels))
            results.append(
                Result(
                    trial=member.trial,
                    architecture=member.architecture,
                    stage=member.stage,
                    score=metrics[self.setup.config.search.objective],
                    metrics=metrics,
                    step_count=member.step_count,
                    supernet_steps=0 if job.stage == "full" else self._supernet_steps,
                    seed=member.seed,
                    seconds=seconds,
                    predicted_peak_bytes=member.predicted_peak_bytes,
                    measured_peak_bytes=peak.peak_bytes,
                )
            )
        return results

    def _score(self, job: Job, should_stop: Callable[[], bool]) -> list[Tensor]:
        """Logits on validation of every member, with the supernet's weights as they are."""
        return predict_population(
            self._inherited(),
            self._store.splits["validation"],
            [member.architecture for member in job.members],
            batch_size=self.setup.config.recipe.batch_size,
            should_stop=should_stop,
        )

    def _train(self, job: Job, should_stop: Callable[[], bool]) -> Tensor:
        """Logits on validation after training."""
        model = self._fresh_model(job) if job.stage == "full" else extract(self._inherited(), job.architecture)
        recipe = self.setup.config.recipe
        train(
            model=model,
            split=self._store.splits["train"],
            recipe=recipe,
            step_count=job.step_count,
            seed=job.seed,
            should_stop=should_stop,
        )
        validation = self._store.splits["validation"]
        logits = predict_logits(model, validation, batch_size=recipe.batch_size, should_stop=should_stop)
        if job.stage == "full":
            save_weights(self.setup.weights_path(job.trial), model)
        return logits

    def _fresh_model(self, job: Job) -> PMF:
        return build_model(
            image_encoder=self._image_encoder,
            text_encoder=self._text_encoder,
            architecture=job.architecture,
            class_count=len(self._store.class_names),
            seed=seed_from(job.seed, "weights"),
        )

    def _inherited(self) -> PMF:
        """The trained supernet."""
        if self._supernet is None:
            self._supernet = build_supernet(
                image_encoder=self._image_encoder,
                text_encoder=self._text_encoder,
                space=self.setup.config.space,
                class_count=len(self._store.class_names),
                seed=0,
            )
            self._supernet_steps = int(load_weights(self.setup.supernet_path, self._supernet)["steps"])
        return self._supernet
