"""Log a search to TensorBoard, in the folder `tensorboard` of the run directory.

Learning curves: one TensorBoard run for each training, such as `full/27`, with `train/loss`, `validation/loss` and the
metric over the steps. Scores: the run `scores`, with each metric of each stage over the number of the candidate.
"""

from collections.abc import Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from nas.run.callbacks import EndEvent, StageEvent, TrialEvent
from nas.run.history import HistoryPoint
from nas.run.loggers.base import Logger
from nas.run.loggers.steps import training_name

FOLDER = "tensorboard"

_Training = tuple[str, str, int]


class TensorBoardLogger(Logger):
    """Logs a search to TensorBoard.

    A later session adds to the same TensorBoard runs. A training that starts again hides its points of the first
    attempt.

    Args:
        directory: The run directory.
    """

    def __init__(self, directory: Path) -> None:
        self._folder = directory / FOLDER
        self._scores = _open(self._folder / "scores")
        self._writers: dict[_Training, tuple[SummaryWriter, int]] = {}
        """The writer of each training that is running, and the last step that it has written."""

    def on_stage(self, event: StageEvent) -> None:
        self._scores.add_text("phase", event.stage, round(event.spent_seconds))

    def on_trial(self, event: TrialEvent) -> None:
        if event.trial.isdecimal() and event.stage != "rerun":
            for name, value in event.metrics.items():
                self._scores.add_scalar(f"{event.stage}/{name}", value, int(event.trial))
        self._scores.flush()

    def on_points(self, points: Sequence[HistoryPoint]) -> None:
        for point in points:
            if point.stage == "one_shot":
                continue  # has no curve, and `on_trial` logs its score
            training = (point.stage, point.trial, point.seed)
            writer, last = self._writers.get(training, (None, -1))
            if writer is None or (point.is_loss and point.step <= last):
                if writer is not None:
                    writer.close()
                writer = _open(self._folder / training_name(point), purge_step=point.step)
            writer.add_scalar(f"{point.split}/{point.name}", point.value, point.step, walltime=point.time)
            self._writers[training] = (writer, point.step)
        for point in points:
            if not point.is_loss:  # the training has ended
                self._close((point.stage, point.trial, point.seed))
        for writer, _ in self._writers.values():
            writer.flush()

    def _close(self, training: _Training) -> None:
        writer, _ = self._writers.pop(training, (None, -1))
        if writer is not None:
            writer.close()

    def on_end(self, event: EndEvent) -> None:
        self._scores.add_text("outcome", event.outcome, round(event.spent_seconds))

    def close(self) -> None:
        for training in list(self._writers):
            self._close(training)
        self._scores.close()


def _open(folder: Path, purge_step: int | None = None) -> SummaryWriter:
    return SummaryWriter(str(folder), purge_step=purge_step)
