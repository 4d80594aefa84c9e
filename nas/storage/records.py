"""The record of a candidate in a study: plain attributes of an Optuna trial."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from nas.common.boundary import shown
from nas.search.space import Architecture, SearchSpace
from nas.search.trial import STAGES, Result, Stage, to_count

RejectionStatus = Literal["failed", "infeasible"]


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
    """Return the attributes of a trial with a score."""
    return {"result": result.as_dict()}


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
        self._distributions: dict[str, BaseDistribution] = {
            variable.name: CategoricalDistribution(variable.choices) for variable in space.variables
        }

    def new_trial(
        self,
        architecture: Architecture,
        state: TrialState,
        attributes: Mapping[str, Any],
        *,
        score: float | None = None,
        seconds: float = 0.0,
    ) -> FrozenTrial:
        """Return a trial to add to a storage, which gives it its number.

        Args:
            architecture: The architecture of the candidate.
            state: The state of the trial.
            attributes: The attributes of the trial.
            score: The score of a finished trial.
            seconds: The duration of a finished trial.
        """
        now = datetime.now()
        values = self._space.encode(architecture)
        return FrozenTrial(
            number=-1,
            trial_id=-1,
            state=state,
            value=score,
            datetime_start=now - timedelta(seconds=seconds),
            datetime_complete=now if state.is_finished() else None,
            params=values,
            distributions={name: self._distributions[name] for name in values},
            user_attrs=dict(attributes),
            system_attrs={},
            intermediate_values={},
        )

    def architecture(self, trial: FrozenTrial) -> Architecture:
        """Return the architecture of a stored trial."""
        return self._space.decode(trial.params)

    def rejection(self, trial: FrozenTrial, stage: Stage) -> Rejection:
        """Return the rejection that a stored trial describes.

        Raises:
            KeyError, TypeError, ValueError: If the trial was not written by this program.
        """
        stored = {"trial": trial.number, **trial.user_attrs}
        return Rejection.from_dict({**stored, "stage": stage, "architecture": self.architecture(trial).as_dict()})
