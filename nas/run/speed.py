"""The measured speed of a search's workers, stored in its run directory."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nas.common.sealed_json import read_sealed_json, write_sealed_json
from nas.search.trial import to_count, to_number
from nas.training.loss_curve import evaluation_count

SPEED = "speed.json"


@dataclass(frozen=True)
class TrainingSpeed:
    """How fast the workers train the default architecture, all at once.

    Args:
        step_seconds: The time of a training step.
        evaluation_seconds: The time of an evaluation on validation.
        process_count: The number of trainings that run at once.
        start_seconds: The time until a full training begins: models may be pretrained, and classifiers may start from
            a solved problem.
    """

    step_seconds: float
    evaluation_seconds: float
    process_count: int
    start_seconds: float = 0.0

    def full_seconds(self, steps: float) -> float:
        """Return the time of a full training with its evaluations, those of its learning curve included.

        Args:
            steps: The number of steps.
        """
        evaluations = evaluation_count(steps * self.step_seconds, self.evaluation_seconds)
        return self.start_seconds + self.short_seconds(steps) + evaluations * self.evaluation_seconds

    def short_seconds(self, steps: float) -> float:
        """Return the time of a training that starts from the supernet's weights, with its evaluation.

        Args:
            steps: The number of steps.
        """
        return steps * self.step_seconds + self.evaluation_seconds


def write_speed(directory: Path, speed: TrainingSpeed) -> None:
    """Store a speed durably.

    Args:
        directory: The run directory.
        speed: The speed.

    Raises:
        OSError: If it cannot be written.
    """
    write_sealed_json(directory / SPEED, asdict(speed))


def read_speed(directory: Path) -> TrainingSpeed | None:
    """Return the stored speed; None if none was measured.

    Args:
        directory: The run directory.

    Raises:
        StudyError: If the file is damaged.
    """
    path = directory / SPEED
    if not path.exists():
        return None
    return read_sealed_json(
        path, _to_speed, expected="the speed of a search's workers", remedy="delete it to measure the speed again"
    )


def _to_speed(values: Mapping[str, Any]) -> TrainingSpeed:
    step, evaluation, start = (
        to_number(name, values[name]) for name in ("step_seconds", "evaluation_seconds", "start_seconds")
    )
    count = to_count("process_count", values["process_count"])
    if not count or not (0 < step < math.inf and 0 < evaluation < math.inf and 0 <= start < math.inf):
        raise ValueError(f"a step of {step} s, an evaluation of {evaluation} s, {start} s before, {count} processes")
    return TrainingSpeed(step, evaluation, count, start)
