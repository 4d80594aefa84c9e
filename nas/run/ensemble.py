"""The ensemble of a run: chosen on validation among everything that the search has trained completely.

Nothing is trained for it. The choice is made at the end of a search from the validation logits that trainings keep, and
stored in `ensemble.json`, from which `export` writes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.common.errors import StudyError
from nas.common.sealed_json import read_sealed_json, write_sealed_json
from nas.config.choices import AnswerKind
from nas.run.progress_lines import metric_title, model_name
from nas.run.roles import BEST, DISTILLED, SIMPLE_MODELS
from nas.search.ensemble import Gain
from nas.search.metric_registry import METRICS
from nas.search.trial import Result, to_number

ENSEMBLE = "ensemble.json"


@dataclass(frozen=True)
class Member:
    """A member of an ensemble.

    Args:
        result: The result of its training.
        weight: Its weight; those of all members add up to 1.
    """

    result: Result
    weight: float

    @property
    def name(self) -> str:
        """The name of the member in messages."""
        return model_name(self.result.key)


@dataclass(frozen=True)
class Ensemble:
    """An ensemble that was chosen on validation.

    Args:
        members: At least two members, the one with the largest weight first.
        metrics: The metrics of the ensemble on validation, by name; they are those of its choice.
        gain: The cross-fitted gain over the best single model, of the score by the objective.
    """

    members: tuple[Member, ...]
    metrics: Mapping[str, float]
    gain: Gain

    @property
    def text(self) -> str:
        """The members with their weights: `#12 × 0.45, default × 0.55`."""
        return ", ".join(f"{member.name} × {member.weight:.2f}" for member in self.members)

    def member_dicts(self) -> list[dict[str, Any]]:
        """Return the results and weights of the members as plain values, which identify the ensemble."""
        return [{"result": member.result.as_dict(), "weight": member.weight} for member in self.members]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "members": self.member_dicts(),
            "metrics": dict(self.metrics),
            "gain": self.gain.mean,
            "standard_error": self.gain.standard_error,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Ensemble":
        """Return the ensemble that `as_dict` has stored.

        Raises:
            KeyError, TypeError, ValueError: If the values are not those of an ensemble.
        """
        members = tuple(
            Member(Result.from_dict(entry["result"]), to_number("weight", entry["weight"]))
            for entry in values["members"]
        )
        if len(members) < 2:
            raise ValueError(f"{len(members)} member(s)")
        metrics = {str(name): to_number(name, value) for name, value in values["metrics"].items()}
        gain, error = (to_number(name, values[name]) for name in ("gain", "standard_error"))
        return cls(members, metrics, Gain(gain, error))


@dataclass(frozen=True)
class EnsembleChoice:
    """The outcome of choosing an ensemble.

    Args:
        ensemble: The ensemble; None if there is none.
        reason: Why there is none, as a clause; empty if there is one.
        best: The best architecture of the search: after a race, of its seeds the one that validation prefers. None
            before the search is concluded.
        role: The role of the single model that is the answer where the ensemble is not.
        simple: That model, if it is not the best architecture.
        distilled: The training of the distilled model that validation prefers; None if there is none.
    """

    ensemble: Ensemble | None
    reason: str = ""
    best: Result | None = None
    role: str = BEST
    simple: Result | None = None
    distilled: Result | None = None

    @property
    def single(self) -> Result | None:
        """The single model that is the answer where the ensemble is not; None before the search is concluded."""
        return self.simple or self.best

    def answer(self, kind: AnswerKind) -> Ensemble | None:
        """Return the ensemble if it is the answer; None if a single model is.

        Args:
            kind: `ensemble`: wherever there is one; `auto`: where the lower end of the one-sided 95 % interval of its
                cross-fitted gain is above 0; `single`: never.
        """
        ensemble = self.ensemble
        if ensemble is None or kind == "single" or (kind == "auto" and ensemble.gain.lower <= 0):
            return None
        return ensemble

    def lines(self, kind: AnswerKind, objective: str) -> list[str]:
        """Return what is said about the ensemble in the final report.

        Args:
            kind: The wanted answer.
            objective: The metric of the search.
        """
        ensemble = self.ensemble
        if ensemble is None:
            return [f"no ensemble: {self.reason}"]
        score = METRICS[objective].score
        gain, low = (score(value) for value in (ensemble.gain.mean, ensemble.gain.lower))
        end = "from" if METRICS[objective].higher_is_better else "up to"
        text = (
            f"ensemble of {len(ensemble.members)} models that the search has trained ({ensemble.text}): validation "
            f"{metric_title(objective)} {gain:+.3f} against the best single model, cross-fitted (standard error "
            f"{ensemble.gain.standard_error:.3f}; one-sided 95 % interval {end} {low:+.3f})"
        )
        if self.answer(kind) is not None:
            return [f"{text}; it is the answer"]
        why = "search.answer is single" if kind == "single" else "this may be luck"
        return [f"{text}; {why}, so the answer is a single model (`export --answer ensemble` exports it)"]


def write_choice(directory: Path, choice: EnsembleChoice) -> None:
    """Store the choice of an ensemble, the best architecture and the answer, durably.

    Args:
        directory: The run directory.
        choice: The choice.

    Raises:
        OSError: If it cannot be written.
    """
    ensemble = None if choice.ensemble is None else choice.ensemble.as_dict()
    best, simple = (None if result is None else result.as_dict() for result in (choice.best, choice.simple))
    values = {"ensemble": ensemble, "reason": choice.reason, "single": best, "role": choice.role, "simple": simple}
    if choice.distilled is not None:
        values["distilled"] = choice.distilled.as_dict()
    write_sealed_json(directory / ENSEMBLE, values)


def read_choice(directory: Path) -> EnsembleChoice:
    """Return the stored choice of an ensemble.

    Args:
        directory: The run directory.

    Raises:
        StudyError: If it is damaged.
    """
    path = directory / ENSEMBLE
    if not path.exists():
        return EnsembleChoice(None, "its search has not been concluded; `resume` does that")
    remedy = "delete it; `resume` then chooses the ensemble again"
    return read_sealed_json(path, _to_choice, expected="the ensemble of a search", remedy=remedy)


def _to_choice(values: Mapping[str, Any]) -> EnsembleChoice:
    found, reason = values["ensemble"], values["reason"]
    if not isinstance(reason, str):
        raise ValueError(f"reason is {reason!r}")
    # Runs of earlier versions lack some of these.
    best, role, simple = values.get("single"), values.get("role", BEST), values.get("simple")
    distilled = values.get("distilled")
    if role not in (BEST, DISTILLED, *(model.role for model in SIMPLE_MODELS)) or (simple is None) != (role == BEST):
        raise ValueError(f"role is {role!r}")
    return EnsembleChoice(
        None if found is None else Ensemble.from_dict(found),
        reason,
        None if best is None else Result.from_dict(best),
        role,
        None if simple is None else Result.from_dict(simple),
        None if distilled is None else Result.from_dict(distilled),
    )


def needed_ensemble(directory: Path, kind: AnswerKind, *, is_asked: bool) -> Ensemble | None:
    """Return the ensemble if it is the answer; None if a single model is.

    Args:
        directory: The run directory.
        kind: The wanted answer.
        is_asked: Whether the command line asks for it, so that `ensemble` without one is an error.

    Raises:
        StudyError: If an ensemble was asked for and there is none, or the stored choice is damaged.
    """
    choice = read_choice(directory)
    if is_asked and kind == "ensemble" and choice.ensemble is None:
        raise StudyError(
            f"{directory}: has no ensemble: {choice.reason}; expected one with --answer ensemble; --answer auto takes "
            "a single model where there is none"
        )
    return choice.answer(kind)
