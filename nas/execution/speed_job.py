"""Run the job that measures the speed of a worker."""

import math
import time
from collections.abc import Callable, Mapping

from nas.data.features.store import FeatureSplit
from nas.execution.worker_setup import WorkerSetup
from nas.models.fusion.base import FusionModel
from nas.search.trial import Job, Result
from nas.training.pretraining.settings import PretrainingSettings
from nas.training.speed import measure_speed


def speed_result(
    job: Job,
    model: FusionModel,
    splits: Mapping[str, FeatureSplit],
    setup: WorkerSetup,
    should_stop: Callable[[], bool],
) -> Result:
    """Measure the speed of this process; the metrics of the result are seconds.

    Args:
        job: The job.
        model: The model of the job, with fresh weights.
        splits: The samples of `train` and `validation`.
        setup: The setup of the worker.
        should_stop: Called before every step and batch.

    Raises:
        StopRequested: If `should_stop` returned true.
        TrainingError: If the loss is not finite.
    """
    started, recipe = time.monotonic(), setup.config.recipe
    seconds = measure_speed(
        model,
        splits,
        recipe,
        batch_size=math.ceil(recipe.batch_size / job.micro_batches),
        micro_batches=job.micro_batches,
        pretraining=PretrainingSettings.of(setup.config, type(job.architecture), setup.vocabulary),
        should_stop=should_stop,
    )
    return Result(
        key=job.key,
        architecture=job.architecture,
        stage=job.stage,
        score=0.0,
        metrics=seconds,
        step_count=job.step_count,
        supernet_steps=0,
        seed=job.seed,
        seconds=time.monotonic() - started,
        predicted_peak_bytes=job.predicted_peak_bytes,
        measured_peak_bytes=0,
        micro_batches=job.micro_batches,
        precision=recipe.precision,
    )
