"""The file of a search over arms: how each arm was tried, which were left out, and which go on."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nas.common.sealed_json import read_sealed_json, write_sealed_json
from nas.search.arm_halving import ArmScores
from nas.search.trial import to_count, to_number

STATE = "arms.json"


@dataclass(frozen=True)
class ModelRow:
    """A model of an arm, for the comparison of the arms.

    Args:
        model: What it is: `default`, `linear` or `best`.
        architecture: Its architecture, for people.
        score: The score on validation, higher is better: of several trainings the mean.
        trainings: The number of trainings.
        trainable_parameters: The number of trainable parameters.
        predicted_peak_bytes: The predicted peak memory of its training.
    """

    model: str
    architecture: str
    score: float
    trainings: int
    trainable_parameters: int
    predicted_peak_bytes: int

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ModelRow":
        """Return the row that `dataclasses.asdict` has stored.

        Raises:
            KeyError, TypeError, ValueError: If the values are not those of a row.
        """
        for name in ("trainings", "trainable_parameters", "predicted_peak_bytes"):
            to_count(name, values[name])
        to_number("score", values["score"])
        return cls(**values)


@dataclass(frozen=True)
class TrialRecord:
    """The trial of an arm.

    Args:
        scores: What the arm is ranked by.
        models: The models that were trained for it.
    """

    scores: ArmScores
    models: Sequence[ModelRow]


@dataclass(frozen=True)
class LeftOut:
    """The reason why an arm was left out.

    Args:
        reason: The reason, on one line or several.
        needed_bytes: The memory that would do, if it is memory that is missing.
    """

    reason: str
    needed_bytes: int | None = None


class ArmsState:
    """State of a search over arms, stored after every step.

    Args:
        path: The file; read if it exists.
        names: The names of the arms, in the order of the search file.

    Raises:
        StudyError: If the file is damaged, or names other arms.
    """

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self._path = path
        self._names = tuple(names)
        self.trials: dict[str, TrialRecord] = {}
        self.left_out: dict[str, LeftOut] = {}
        self.rungs: list[list[str]] = []
        """The arms that go on after each rung that is decided, the best first."""
        if path.exists():
            self.trials, self.left_out, self.rungs = read_sealed_json(
                path, self._build, expected="the state of a search over arms", remedy="delete it to compare them again"
            )

    @property
    def members(self) -> list[str]:
        """The arms that are still compared, or the one that is left."""
        going_on = self.rungs[-1] if self.rungs else self._names
        return [name for name in going_on if name not in self.left_out]

    @property
    def winner(self) -> str | None:
        """The arm that is left; None while several are compared."""
        return self.rungs[-1][0] if self.rungs and len(self.rungs[-1]) == 1 else None

    def record(self, name: str, trial: TrialRecord) -> None:
        """Store the trial of an arm.

        Args:
            name: The name of the arm.
            trial: Its trial so far.

        Raises:
            OSError: If the file cannot be written; the old one is then untouched.
        """
        self.trials[name] = trial
        self._write()

    def leave_out(self, name: str, left_out: LeftOut) -> None:
        """Store that an arm is left out.

        Args:
            name: The name of the arm.
            left_out: The reason.

        Raises:
            OSError: If the file cannot be written.
        """
        self.left_out[name] = left_out
        self._write()

    def decide(self, names: Sequence[str]) -> None:
        """Store which arms go on after a rung.

        Args:
            names: Their names, the best first.

        Raises:
            OSError: If the file cannot be written.
        """
        self.rungs.append(list(names))
        self._write()

    def reconsider(self, left_out: Mapping[str, LeftOut]) -> None:
        """Give the arms that were left out another chance, unless a rung is decided without them.

        Args:
            left_out: The arms that have none.

        Raises:
            OSError: If the file cannot be written.
        """
        if not self.rungs:
            self.left_out = dict(left_out)
            self._write()

    def _write(self) -> None:
        trials = {
            name: {
                "default": [None if math.isinf(score) else score for score in trial.scores.default],
                "linear": trial.scores.linear,
                "models": [asdict(model) for model in trial.models],
            }
            for name, trial in self.trials.items()
        }
        left_out = {name: asdict(entry) for name, entry in self.left_out.items()}
        values = {"arms": self._names, "trials": trials, "left_out": left_out, "rungs": self.rungs}
        write_sealed_json(self._path, values)

    def _build(self, values: Mapping[str, Any]) -> tuple[dict[str, TrialRecord], dict[str, LeftOut], list[list[str]]]:
        if tuple(values["arms"]) != self._names:
            raise ValueError(f"arms: expected {', '.join(self._names)}, got {', '.join(values['arms'])}")
        trials = {name: _to_trial(entry) for name, entry in values["trials"].items()}
        left_out = {
            name: LeftOut(str(entry["reason"]), _optional_count(entry["needed_bytes"]))
            for name, entry in values["left_out"].items()
        }
        rungs = [list(rung) for rung in values["rungs"]]
        for name in (*trials, *left_out, *(name for rung in rungs for name in rung)):
            if name not in self._names:
                raise ValueError(f"{name}: not an arm")
        if not all(rungs):
            raise ValueError("rungs: one is empty")
        return trials, left_out, rungs


def _to_trial(values: Mapping[str, Any]) -> TrialRecord:
    default = [-math.inf if score is None else to_number("score", score) for score in values["default"]]
    linear = None if values["linear"] is None else to_number("linear", values["linear"])
    return TrialRecord(ArmScores(default, linear), [ModelRow.from_dict(entry) for entry in values["models"]])


def _optional_count(value: Any) -> int | None:
    return None if value is None else to_count("needed_bytes", value)
