"""Worker processes that end every job at once and import no torch, so that many of them fit a machine."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.models.fusion.pmf.architecture import GENES
from nas.search.trial import Job, Result

Choices = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class InstantSetup:
    """What the executor and the nodes read of a `WorkerSetup`, without the configurations of the encoders.

    Args:
        run_directory: As there, like all up to `device`.
        feature_directory: A complete feature store.
        frozen_paths: The weights of the encoders.
        supernet_path: The supernet.
        thread_count: The number of threads.
        device: The device.
        choices: The choices of every gene.
        supernet_steps: The number of steps of the supernet.
    """

    run_directory: Path
    feature_directory: Path
    frozen_paths: tuple[Path, Path]
    supernet_path: Path
    thread_count: int
    device: str
    choices: Choices
    supernet_steps: int


def no_worker(*arguments: object) -> None:
    """Create no worker: `InstantActor` needs none."""
    del arguments


class InstantActor:
    """Stands in for `nas.execution.ray.actor.WorkerActor`.

    Args:
        factory: Not used.
        setup: The description of the work.
        record_path: Not used.
    """

    def __init__(self, factory: object, setup: InstantSetup, record_path: Path) -> None:
        del factory, record_path
        self._setup = setup

    def prepare(self) -> None:
        """Load nothing."""

    def run(self, job: Job, grant_bytes: int) -> tuple[Result, ...]:
        """Return the results of the job's members."""
        del grant_bytes
        setup = self._setup
        return tuple(instant_result(member, setup.choices, setup.supernet_steps) for member in job.members)

    def training_files(self, key: object, stage: str) -> dict[str, Any]:
        """Return no files: nothing is trained."""
        del key, stage
        return {}

    def losses(self, key: object, stage: str) -> tuple[Any, ...]:
        """Return an empty learning curve: nothing is trained."""
        del key, stage
        return ()

    def stop(self) -> None:
        """Stop nothing."""


def instant_result(job: Job, choices: Choices, supernet_steps: int) -> Result:
    """Return a result with a score by a formula.

    Args:
        job: The job of one candidate.
        choices: The choices of every gene.
        supernet_steps: The number of steps of the supernet.
    """
    score = _score_by_formula(job, choices)
    return Result(
        key=job.key,
        architecture=job.architecture,
        stage=job.stage,
        score=score,
        metrics={"accuracy": score, "balanced_accuracy": score, "macro_f1": score},
        step_count=job.step_count,
        supernet_steps=supernet_steps,
        seed=job.seed,
        seconds=0.001,
        predicted_peak_bytes=job.predicted_peak_bytes,
        measured_peak_bytes=job.predicted_peak_bytes,
        micro_batches=job.micro_batches,
    )


def _score_by_formula(job: Job, choices: Choices) -> float:
    """Return a score that is highest in the middle of the space, with noise: learning strategies converge to it."""
    architecture = job.architecture.values()
    places = [choices[gene].index(architecture[gene]) / (len(choices[gene]) - 1) for gene in GENES]
    return 0.9 - sum((place - 0.5) ** 2 for place in places) / 2 + random.Random(job.seed).uniform(0, 0.1)
