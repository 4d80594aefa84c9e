"""Factories of values that tests need and mostly do not care about: keyword arguments, with a default for each."""

from collections.abc import Mapping

from nas.config.choices import Oversized
from nas.config.schema import BudgetConfig
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.search.keys import CandidateKey, ModelKey
from nas.search.space import Architecture
from nas.search.trial import Failure, FailureKind, Job, Result, Stage

ARCHITECTURE = PMFArchitecture(1, 2, 2, 1, 8)


def make_job(
    *,
    trial: int = 0,
    key: ModelKey | None = None,
    architecture: Architecture = ARCHITECTURE,
    stage: Stage = "one_shot",
    step_count: int = 0,
    seed: int = 7,
    predicted_peak_bytes: int = 1000,
    companions: tuple[Job, ...] = (),
    learning_rate: float | None = None,
    most_devices: int = 1,
) -> Job:
    """Return a job of a candidate; `key` replaces `trial`."""
    return Job(
        key=CandidateKey(trial) if key is None else key,
        architecture=architecture,
        stage=stage,
        step_count=step_count,
        seed=seed,
        predicted_peak_bytes=predicted_peak_bytes,
        companions=companions,
        learning_rate=learning_rate,
        most_devices=most_devices,
    )


def make_result(
    *,
    trial: int = 0,
    key: ModelKey | None = None,
    architecture: Architecture = ARCHITECTURE,
    stage: Stage = "one_shot",
    score: float = 0.5,
    metrics: Mapping[str, float] | None = None,
    step_count: int = 0,
    supernet_steps: int = 7,
    seed: int = 7,
    seconds: float = 2.0,
    predicted_peak_bytes: int = 100,
    measured_peak_bytes: int = 90,
    micro_batches: int = 1,
    latency_seconds: float | None = None,
    kept_freed_memory: bool = False,
    device_count: int = 1,
) -> Result:
    """Return a result of a candidate; `key` replaces `trial`, and the metrics default to an accuracy of the score."""
    return Result(
        key=CandidateKey(trial) if key is None else key,
        architecture=architecture,
        stage=stage,
        score=score,
        metrics={"accuracy": score} if metrics is None else dict(metrics),
        step_count=step_count,
        supernet_steps=supernet_steps,
        seed=seed,
        seconds=seconds,
        predicted_peak_bytes=predicted_peak_bytes,
        measured_peak_bytes=measured_peak_bytes,
        micro_batches=micro_batches,
        latency_seconds=latency_seconds,
        kept_freed_memory=kept_freed_memory,
        device_count=device_count,
    )


def make_failure(
    *,
    job: Job | None = None,
    kind: FailureKind = "error",
    cause: str = "TrainingError",
    reason: str = "TrainingError: the loss is not finite",
    measured_peak_bytes: int | None = None,
) -> Failure:
    """Return the failure of a job."""
    return Failure(
        job=make_job() if job is None else job,
        kind=kind,
        cause=cause,
        reason=reason,
        measured_peak_bytes=measured_peak_bytes,
    )


def make_budget(
    *,
    time_seconds: float | None = None,
    trials: int | None = 10,
    memory_bytes: int = 1,
    oversized: Oversized = "reject",
    supernet_fraction: float = 0.2,
    finalists_fraction: float = 0.3,
) -> BudgetConfig:
    """Return a budget in trials."""
    return BudgetConfig(
        time_seconds=time_seconds,
        trials=trials,
        memory_bytes=memory_bytes,
        oversized=oversized,
        supernet_fraction=supernet_fraction,
        finalists_fraction=finalists_fraction,
    )
