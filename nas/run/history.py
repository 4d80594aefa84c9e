"""The learning curves and evaluations of a run: `history.jsonl`, one JSON object in each line, appended as it runs.

A line is one point: the mean training loss of the steps since the point before, or a metric on validation. A training
that starts again replaces its points of the first attempt, so that no point is there twice. A kill may leave a partial
last line, which readers skip and the next session removes.

The file is bounded: a training has at most 40 points of its loss and five evaluations of two values, a screened
candidate one of two values, and a line has about 200 bytes. Once losses fill 16 MiB, those of the oldest candidates are
removed until half of that is left; evaluations and the supernet's losses stay.
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from nas.common.files import write_atomically
from nas.execution.base import LossReceiver
from nas.search.keys import CandidateKey, ModelKey, RecipeKey, RerunKey
from nas.search.trial import Job, Result, Stage
from nas.training.loss_curve import LossPoint

HISTORY = "history.jsonl"
SUPERNET: Literal["supernet"] = "supernet"
"""The stage of the supernet's training, and what stands in place of its candidate."""

MAX_LOSS_BYTES = 16 * 2**20
"""The size of all lines with training losses at which the oldest are removed."""

HistoryStage = Literal["supernet", "recipe", "pretraining", "one_shot", "short", "full", "rerun"]


@dataclass(frozen=True)
class TrainingName:
    """The name of one training of one model.

    Args:
        trial: The candidate as in `results.csv`: its number, or the name of another model, such as `default`.
        stage: The stage, or `recipe` and `rerun` for the full trainings of these phases, and `pretraining` for what
            comes before a full training.
        seed: The seed of the training.
    """

    trial: str
    stage: HistoryStage
    seed: int

    @property
    def pretraining(self) -> "TrainingName":
        """The name of the pretraining before this training."""
        return replace(self, stage="pretraining")

    @classmethod
    def of(cls, key: ModelKey, stage: Stage, seed: int) -> "TrainingName":
        """Return the name of the training of a job."""
        match key:
            case RerunKey(origin=origin):
                return cls(_printed(origin), "rerun", seed)
            case RecipeKey():
                return cls(key.name, "recipe", seed)
            case _:
                return cls(_printed(key), stage, seed)


def _printed(key: ModelKey) -> str:
    return str(key.trial) if isinstance(key, CandidateKey) else key.name


@dataclass(frozen=True)
class HistoryPoint:
    """One line of the history.

    Args:
        time: The time of day in seconds since 1970.
        trial: The candidate; see `TrainingName`.
        stage: The stage.
        seed: The seed of the training.
        step: The number of finished steps of this training.
        steps: The total number of its steps; 0 for candidates that are only screened.
        epoch: The number of passes over the training samples until then.
        split: The samples: `train` or `validation`.
        name: The name of the value: `loss` (on validation the cross-entropy), or a metric.
        value: The value.
    """

    time: float
    trial: str
    stage: str
    seed: int
    step: int
    steps: int
    epoch: float
    split: str
    name: str
    value: float

    @property
    def series(self) -> tuple[str, str, int, str, str]:
        """What all points of one curve share."""
        return self.trial, self.stage, self.seed, self.split, self.name

    @property
    def is_loss(self) -> bool:
        """Whether this is a training loss, of which there may be too many."""
        return self.split == "train"

    def as_line(self) -> bytes:
        """Return the line of the file, with its end."""
        return json.dumps(asdict(self)).encode() + b"\n"


_TYPES: Mapping[str, type] = {"seed": int, "step": int, "steps": int, "time": float, "epoch": float, "value": float}


def _to_point(line: bytes) -> HistoryPoint | None:
    """Return the point of a line; None if the line is partial, or not one of this program's."""
    try:
        values: dict[str, Any] = json.loads(line)
        typed = {field.name: _TYPES.get(field.name, str)(values[field.name]) for field in fields(HistoryPoint)}
        return HistoryPoint(**typed) if math.isfinite(typed["value"]) else None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def read_history(path: Path) -> list[HistoryPoint]:
    """Read the history of a run, also while the run writes to it; lines that are no points are skipped.

    Args:
        path: The file; without one there are no points.

    Raises:
        OSError: If the file cannot be read.
    """
    if not path.exists():
        return []
    points = map(_to_point, path.read_bytes().split(b"\n"))
    return [point for point in points if point is not None]


class History:
    """The history of a run, open for the one driver that writes to it.

    Args:
        path: The file, which is created with the first point.
        metric: The metric that the search maximises or minimises.
        on_points: Callback that receives the points that were written.

    Raises:
        OSError: If the file cannot be read, or a partial line cannot be removed.
    """

    def __init__(
        self, path: Path, metric: str, on_points: Callable[[Sequence[HistoryPoint]], None] = lambda points: None
    ) -> None:
        self._path = path
        self._metric = metric
        self._on_points = on_points
        self._last: dict[tuple[str, str, int, str, str], int] = {}
        """The last step of each curve in the file."""
        self._loss_bytes = 0
        self._received: dict[TrainingName, dict[int, LossPoint]] = {}
        """What trainings of this session that have not ended have sent, by step."""
        points = read_history(path)
        content = b"".join(point.as_line() for point in points)
        if path.exists() and path.stat().st_size != len(content):
            write_atomically(path, content)
        self._count(points)

    def _count(self, points: Iterable[HistoryPoint]) -> None:
        for point in points:
            self._last[point.series] = point.step
            if point.is_loss:
                self._loss_bytes += len(point.as_line())

    def add_losses(self, training: TrainingName, curve: Sequence[LossPoint]) -> None:
        """Add what is new in the learning curve of a running training.

        Args:
            training: The training.
            curve: Its points until now, from where it was started or resumed; may be the same as before.

        Raises:
            OSError: If the file cannot be written.
        """
        known = self._received.setdefault(training, {})
        if not curve or known.get(curve[-1].step) == curve[-1]:
            return
        new = [point for point in curve if known.get(point.step) != point]
        first = new[0].step
        known = {step: point for step, point in known.items() if step < first}
        self._received[training] = known | {point.step: point for point in new}
        self._add([entry for point in new for entry in self._entries(training, point)])

    def _entries(self, training: TrainingName, point: LossPoint) -> list[HistoryPoint]:
        """Return the loss of a point of a learning curve, and what is known of validation there."""
        place = (training.trial, training.stage, training.seed, point.step, point.steps, point.epoch)
        values = self._values(point.metrics)
        return [
            HistoryPoint(point.time, *place, "train", "loss", point.loss),
            *(HistoryPoint(point.time, *place, "validation", name, value) for name, value in values.items()),
        ]

    def _values(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return the values on validation that the history has, by their names."""
        values = {"loss": metrics.get("cross_entropy"), self._metric: metrics.get(self._metric)}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def receiver(self) -> LossReceiver:
        """The function that adds the learning curves of jobs."""

        def receive(job: Job, curve: Sequence[LossPoint]) -> None:
            training = TrainingName.of(job.key, job.stage, job.seed)
            for name, phase in ((training.pretraining, "pretraining"), (training, "training")):
                points = [point for point in curve if point.phase == phase]
                if points:
                    self.add_losses(name, points)

        return receive

    def add_result(self, result: Result) -> dict[int, float]:
        """Add the evaluation of a model that was scored, or whose training has ended.

        Args:
            result: Its result.

        Returns:
            The learning curve of its training, the loss by the number of the step; empty if there was none.

        Raises:
            OSError: If the file cannot be written.
        """
        training = TrainingName.of(result.key, result.stage, result.seed)
        self._received.pop(training.pretraining, None)
        curve = self._received.pop(training, {})
        epoch = max((point.epoch for point in curve.values()), default=0.0)
        values = self._values(result.metrics)
        place = (training.trial, training.stage, training.seed, result.step_count, result.step_count, epoch)
        now = time.time()
        self._add([HistoryPoint(now, *place, "validation", name, value) for name, value in values.items()])
        return {step: point.loss for step, point in sorted(curve.items())}

    def _add(self, points: Sequence[HistoryPoint]) -> None:
        points = [point for point in points if math.isfinite(point.value)]
        if not points:
            return
        replaced: dict[tuple[str, str, int, str, str], int] = {}
        for point in points:
            if point.step <= self._last.get(point.series, -1):
                replaced[point.series] = min(point.step, replaced.get(point.series, point.step))
        if replaced:  # the training has started again
            kept = read_history(self._path)
            self._rewrite([point for point in kept if point.step < replaced.get(point.series, math.inf)])
        with self._path.open("ab") as file:
            file.write(b"".join(point.as_line() for point in points))
        self._count(points)
        if self._loss_bytes > MAX_LOSS_BYTES:
            self._remove_oldest()
        self._on_points(points)

    def _remove_oldest(self) -> None:
        points, excess = read_history(self._path), self._loss_bytes - MAX_LOSS_BYTES // 2
        kept = []
        for point in points:
            if excess > 0 and point.is_loss and point.stage != SUPERNET:
                excess -= len(point.as_line())
            else:
                kept.append(point)
        self._rewrite(kept)

    def _rewrite(self, points: Sequence[HistoryPoint]) -> None:
        write_atomically(self._path, b"".join(point.as_line() for point in points))
        self._last, self._loss_bytes = {}, 0
        self._count(points)
