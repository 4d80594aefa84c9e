"""Run the jobs that train no model: measure the speed of a worker, and compute what an ensemble teaches."""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from nas.common.errors import StudyError
from nas.data.features.store import FeatureSplit
from nas.execution.speed_job import speed_result
from nas.execution.worker_setup import WorkerSetup, teacher_path
from nas.models.fusion.base import FusionModel
from nas.models.fusion.ensemble import mean_logits
from nas.search.distillation import TEMPERATURE, WEIGHT
from nas.search.keys import DistilledKey, ModelKey, TeacherKey
from nas.search.trial import Job, Result
from nas.training.checkpoint import load_tensors, load_weights, save_tensors, training_facts
from nas.training.soft_targets import SoftTargets
from nas.training.split_logits import split_logits

_LOGITS = "logits"
_DIGEST = "teacher"


def special_result(
    job: Job,
    setup: WorkerSetup,
    splits: Mapping[str, FeatureSplit],
    build: Callable[[Job], FusionModel],
    should_stop: Callable[[], bool],
) -> Result:
    """Run a job that trains no model.

    Args:
        job: The job; its key is that of a speed or a teacher.
        setup: The setup of the worker.
        splits: The samples of `train` and `validation`.
        build: Function that returns the model of a training with any weights.
        should_stop: Called before every step and batch.

    Raises:
        StopRequested: If `should_stop` returned true.
        StudyError: If the weights of a teacher are missing or damaged.
        TrainingError: If the loss is not finite.
    """
    if isinstance(job.key, TeacherKey):
        return _teach(job, job.key.digest, setup=setup, split=splits["train"], build=build, should_stop=should_stop)
    return speed_result(job, build(job), splits, setup, should_stop)


def _teach(
    job: Job,
    digest: str,
    *,
    setup: WorkerSetup,
    split: FeatureSplit,
    build: Callable[[Job], FusionModel],
    should_stop: Callable[[], bool],
) -> Result:
    """Compute the logits of an ensemble for all training samples, one member after the other, and store them.

    Args:
        job: The job, with the trainings of the members.
        digest: The digest of the ensemble.
        setup: The setup of the worker.
        split: The training samples.
        build: Function that returns the model of a training with any weights.
        should_stop: Called before every batch.

    Returns:
        A result without metrics.

    Raises:
        StopRequested: If `should_stop` returned true.
        StudyError: If the weights of a member are missing or damaged.
    """
    started, recipe = time.monotonic(), setup.config.recipe
    size, precision = math.ceil(recipe.batch_size / job.micro_batches), recipe.precision
    logits = []
    for member, _ in job.taught_by:
        model = build(member)
        load_weights(setup.weights_path(member.key), model, **training_facts(member))
        logits.append(split_logits(model, split, batch_size=size, precision=precision, should_stop=should_stop).cpu())
    weights = [weight for _, weight in job.taught_by]
    mean = mean_logits(logits, weights, has_several_labels=split.labels.ndim == 2)
    save_tensors(teacher_path(setup.run_directory, digest), {_LOGITS: mean}, **{_DIGEST: digest})
    return Result(
        key=job.key,
        architecture=job.architecture,
        stage=job.stage,
        score=0.0,
        metrics={},
        step_count=job.step_count,
        supernet_steps=0,
        seed=job.seed,
        seconds=time.monotonic() - started,
        predicted_peak_bytes=job.predicted_peak_bytes,
        measured_peak_bytes=0,
        micro_batches=job.micro_batches,
        precision=precision,
    )


def read_teacher(path: Path, digest: str, shape: tuple[int, int]) -> Tensor | None:
    """Return the logits of an ensemble for the training samples, float32, (N, C).

    Args:
        path: The file.
        digest: The digest of the ensemble.
        shape: The numbers of samples and classes.

    Returns:
        The logits; None if the file is missing, damaged, or another ensemble's, so that they have to be computed.
    """
    try:
        tensors, _ = load_tensors(path, **{_DIGEST: digest})
    except StudyError:
        return None
    logits = tensors.get(_LOGITS)
    return logits if logits is not None and logits.shape == shape and logits.dtype == torch.float32 else None


def soft_targets_of(key: ModelKey, run_directory: Path, split: FeatureSplit, num_classes: int) -> SoftTargets | None:
    """Return what a model learns from besides the labels; None for one that is not distilled.

    Args:
        key: The key of its training.
        run_directory: The run directory.
        split: The training samples.
        num_classes: The number of classes.

    Raises:
        StudyError: If the logits of the teacher are missing or damaged.
    """
    if not isinstance(key, DistilledKey):
        return None
    path = teacher_path(run_directory, key.teacher)
    logits = read_teacher(path, key.teacher, (len(split), num_classes))
    if logits is None:
        raise StudyError(f"{path}: holds no logits of the ensemble {key.teacher}; `resume` computes them again")
    labels = torch.from_numpy(split.labels[:1].copy())
    return SoftTargets.of(logits, labels, temperature=TEMPERATURE, weight=WEIGHT)
