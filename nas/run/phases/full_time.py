"""Estimate how long full trainings take, to start only those that there is time for. Plain arithmetic."""

from dataclasses import dataclass

from nas.run.speed import TrainingSpeed
from nas.search.trial import Result
from nas.training.loss_curve import evaluation_count

_STEP_PER_EVALUATION = 3  # a training step costs about three forward passes


@dataclass(frozen=True)
class FullTrainingTime:
    """The estimated time of full trainings, from the best that is known about an architecture.

    Args:
        steps: The number of steps of a full training.
        relative_steps: The number of training samples of all these steps, in numbers of validation samples.
        speed: The measured speed of the default; None if it was not measured.
        default: The score of the default from screening; None if it was not screened.
    """

    steps: int
    relative_steps: float
    speed: TrainingSpeed | None = None
    default: Result | None = None

    def of_default(self, slowest_seconds: float) -> float:
        """Return the time of the default's training in seconds.

        Args:
            slowest_seconds: The time of the slowest finalist, which stands in where nothing of the default is known.
        """
        if self.speed is not None:
            return self.speed.full_seconds(self.steps)
        return slowest_seconds if self.default is None else self._by_evaluation(self.default)

    def of_candidate(self, scored: Result | None, trained: Result | None) -> float:
        """Return the time of a candidate's training in seconds.

        Args:
            scored: Its result from screening, if there is one.
            trained: Its result from short training, if there is one.
        """
        evaluation = 0.0 if scored is None else scored.seconds
        if trained is not None:
            start = 0.0 if self.speed is None else self.speed.start_seconds  # short trainings start from the supernet
            steps = self.steps * max(trained.seconds - evaluation, 0.0) / trained.step_count
            return start + steps + evaluation * (1 + evaluation_count(steps, evaluation))
        if self.speed is not None:
            # The default is evaluated first, in a process that is not warm: others may seem faster, but are not.
            ratio = 1.0 if self.default is None or scored is None else evaluation / max(self.default.seconds, 1e-9)
            start = self.speed.start_seconds
            return start + (self.speed.full_seconds(self.steps) - start) * max(ratio, 1.0)
        return 0.0 if scored is None else self._by_evaluation(scored)

    def _by_evaluation(self, scored: Result) -> float:
        steps = self.relative_steps * _STEP_PER_EVALUATION
        return scored.seconds * (1 + steps + evaluation_count(steps, 1.0))
