"""The worker that makes the trainings of the table."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from nas.execution.training_job import batch_size_of
from nas.execution.worker import CandidateWorker
from nas.execution.worker_setup import WorkerSetup
from nas.memory.overheads import bytes_with_fragmentation
from nas.search.trial import Job, Result
from nas.training.checkpoint import load_weights
from nas.training.distributed import GradientGroup
from nas.training.evaluate import predict_logits
from nas.training.metrics import evaluate_logits

PEAK_STEPS = 3
"""The number of steps in which a peak is measured; the batches of a training differ little in size."""

TEST = "test "
"""Prefix of test metrics in the results of a worker."""


class TableWorker(CandidateWorker):
    """Worker that also evaluates trained models on test, and measures peaks.

    Args:
        test_features: A complete feature store of the test split.
        predictions: The folder to which it writes which predictions are right; None for none.
    """

    def __init__(
        self,
        setup: WorkerSetup,
        on_exceeded: Callable[[int, int], None] | None = None,
        *,
        test_features: Path,
        predictions: Path | None,
    ) -> None:
        super().__init__(setup, on_exceeded)
        self._predictions = predictions
        self._test = self.open_features(test_features).splits["test"]

    def run(
        self,
        job: Job,
        *,
        limit_bytes: int | None,
        group: GradientGroup | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> list[Result]:
        if group is not None:
            raise ValueError(f"{job.key.name}: is evaluated by the worker that has trained it; expected one worker")
        if job.step_count == PEAK_STEPS:
            # Below the limit from which a worker keeps the memory that it frees.
            limit_bytes = bytes_with_fragmentation(job.reserved_bytes) - 1
            results = super().run(job, limit_bytes=limit_bytes, should_stop=should_stop)
            self._delete_files(job)
            return results
        (result,) = super().run(job, limit_bytes=limit_bytes, should_stop=should_stop)
        model = self.fresh_model(job)
        load_weights(self.setup.weights_path(job.key), model)
        self._delete_files(job)
        size = batch_size_of(job, self.setup.config)
        logits = predict_logits(model, self._test, batch_size=size, should_stop=should_stop)
        test = evaluate_logits(logits, torch.from_numpy(self._test.labels))
        if self._predictions is not None:
            validation = self._store.splits["validation"]
            known = predict_logits(model, validation, batch_size=size, should_stop=should_stop)
            right = {
                split: (predicted.argmax(dim=1).numpy() == samples.labels)
                for split, predicted, samples in (("validation", known, validation), ("test", logits, self._test))
            }
            np.savez(predictions_path(self._predictions, job.trial), **right)
        return [replace(result, metrics=result.metrics | {f"{TEST}{name}": value for name, value in test.items()})]

    def _delete_files(self, job: Job) -> None:
        for path in self.setup.training_files(job.key, job.stage):
            path.unlink()


def predictions_path(directory: Path, trial: int) -> Path:
    """Return the file in which a worker hands over which predictions of a training are right."""
    return directory / f"{trial}.npz"
