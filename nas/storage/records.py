"""The record of a candidate in a study: plain attributes of an Optuna trial."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Literal, get_args

from optuna.trial import FrozenTrial, TrialState

from nas.common.boundary import shown
from nas.search.space import Architecture, SearchSpace
from nas.search.trial import STAGES, Result, Stage, to_count
from nas.storage.parameters import TrialParameters

RejectionStatus = Literal["failed", "infeasible"]

CONSTRAINTS = "constraints"
"""The system attribute in which Optuna and optuna-dashboard expect the values of constraints: met if 0 or less."""


@dataclass(frozen=True)
class Rejection:
    """A candidate that ended without a score at a stage.

    Args:
        trial: The number of the candidate.
        architecture: The architecture of the candidate.
        stage: The stage that it did not finish.
        status: `infeasible` (it does not fit, as predicted or measured) or `failed` (it was run, but not finished).
        reason: The reason in words.
        predicted_peak_bytes: The predicted peak of its training.
        measured_peak_bytes: The measured peak; None if it was never run, or died without a measurement.
    """

    trial: int
    architecture: Architecture
    stage: Stage
    status: RejectionStatus
    reason: str
    predicted_peak_bytes: int
    measured_peak_bytes: int | None = None

    @property
    def order(self) -> tuple[int, int]:
        """The place among all rejections: by stage and number, whenever the candidate was rejected."""
        return STAGES.index(self.stage), self.trial

    def as_dict(self) -> dict[str, Any]:
        """Return the rejection as nested plain values."""
        return {**asdict(self), "architecture": self.architecture.as_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Rejection":
        """Return the rejection that `as_dict` has stored.

        Raises:
            KeyError, TypeError, ValueError: If the values are not those of a rejection.
        """
        stage, status, reason = values["stage"], values["status"], values["reason"]
        if stage not in STAGES or status not in get_args(RejectionStatus) or not isinstance(reason, str):
            raise ValueError(f"stage {shown(stage)}, status {shown(status)}, reason {shown(reason)}")
        measured = values["measured_peak_bytes"]
        return cls(
            trial=to_count("trial", values["trial"]),
            architecture=Architecture.from_dict(values["architecture"]),
            stage=stage,
            status=status,
            reason=reason,
            predicted_peak_bytes=to_count("predicted_peak_bytes", values["predicted_peak_bytes"]),
            measured_peak_bytes=None if measured is None else to_count("measured_peak_bytes", measured),
        )


def result_attributes(result: Result) -> dict[str, Any]:
    """Return the attributes of a trial with a score: the result, and the numbers of it that figures can use."""
    numbers = {name: value for name, value in result.metrics.items() if math.isfinite(value)}
    return {"result": result.as_dict(), **numbers, "peak_memory (MiB)": round(result.measured_peak_bytes / 2**20, 1)}


def rejection_attributes(rejection: Rejection) -> dict[str, Any]:
    """Return the attributes of a trial without a score."""
    return {
        "trial": rejection.trial,
        "status": rejection.status,
        "reason": rejection.reason,
        "predicted_peak_bytes": rejection.predicted_peak_bytes,
        "measured_peak_bytes": rejection.measured_peak_bytes,
    }


class TrialFormat:
    """Converts candidates to Optuna trials and back.

    Args:
        space: The search space; the same for the life of a study.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._parameters = TrialParameters(space)

    def keep_form(self, trials: Iterable[FrozenTrial]) -> None:
        """Write further trials in the form of those that a study holds, which an earlier version may have started."""
        self._parameters.keep_form(trials)

    def new_trial(
        self,
        architecture: Architecture,
        state: TrialState,
        attributes: Mapping[str, Any],
        *,
        score: float | None = None,
        seconds: float = 0.0,
        curve: Mapping[int, float] = MappingProxyType({}),
        constraints: Sequence[float] = (),
    ) -> FrozenTrial:
        """Return a trial to add to a storage, which gives it its number.

        Args:
            architecture: The architecture of the candidate.
            state: The state of the trial.
            attributes: The attributes of the trial.
            score: The score of a finished trial.
            seconds: The duration of a finished trial.
            curve: The learning curve of a trained candidate, the loss by the number of the step.
            constraints: How far it is beyond each constraint of the search; 0 or less where one is met.
        """
        now = datetime.now()
        params, distributions = self._parameters.encode(self._space.encode(architecture))
        return FrozenTrial(
            number=-1,
            trial_id=-1,
            state=state,
            value=score,
            datetime_start=now - timedelta(seconds=seconds),
            datetime_complete=now if state.is_finished() else None,
            params=params,
            distributions=distributions,
            user_attrs=dict(attributes),
            system_attrs={CONSTRAINTS: list(constraints)} if constraints else {},
            intermediate_values=dict(curve),
        )

    def architecture(self, trial: FrozenTrial) -> Architecture:
        """Return the architecture of a stored trial."""
        return self._space.decode(self._parameters.decode(trial.params))

    def rejection(self, trial: FrozenTrial, stage: Stage) -> Rejection:
        """Return the rejection that a stored trial describes.

        Raises:
            KeyError, TypeError, ValueError: If the trial was not written by this program.
        """
        stored = {"trial": trial.number, **trial.user_attrs}
        return Rejection.from_dict({**stored, "stage": stage, "architecture": self.architecture(trial).as_dict()})
