"""What an experiment tracker that cannot take points back has of each training: a step is logged once."""

from collections.abc import Iterator, Sequence

from nas.run.history import SUPERNET, HistoryPoint


class LoggedSteps:
    """Passes the points of trainings on that were not logged before.

    A training that starts again, or resumes at a checkpoint, repeats steps; with the same seed, their losses are the
    same up to rounding.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], int] = {}

    def skip_to(self, training: str, name: str, step: int) -> None:
        """Remember a step that an earlier session has logged.

        Args:
            training: The name of the training.
            name: The name of the value, such as `train/loss`.
            step: The step.
        """
        self._last[training, name] = max(step, self._last.get((training, name), -1))

    def new(self, points: Sequence[HistoryPoint]) -> Iterator[tuple[str, str, HistoryPoint]]:
        """Yield the points that are new: the name of the training, that of the value, and the point.

        Args:
            points: The points. The evaluations of screened candidates are left out, which have no curve.
        """
        for point in points:
            if point.stage == "one_shot":
                continue
            training, name = training_name(point), f"{point.split}/{point.name}"
            if point.step > self._last.get((training, name), -1):
                self._last[training, name] = point.step
                yield training, name, point


def training_name(point: HistoryPoint) -> str:
    """Return the name of the training of a point: `full/27`, `rerun/27/seed_3`, `supernet`."""
    if point.stage == SUPERNET:
        return SUPERNET
    name = f"{point.stage}/{point.trial}"
    return f"{name}/seed_{point.seed}" if point.stage == "rerun" else name
