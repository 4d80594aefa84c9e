"""The candidates of a run as rows, and the front among them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.config.schema import Config
from nas.run.arms.directory import arm_directory, is_arms_run, read_arms_run
from nas.run.directory import is_run, read_run, read_study
from nas.run.finalize import read_report
from nas.run.recording import RESULTS
from nas.run.results_csv import read_parameters
from nas.run.roles import DEFAULT
from nas.search.keys import CandidateKey, ModelKey, RerunKey
from nas.search.metric_registry import metric_names
from nas.search.objectives import Objectives
from nas.search.pareto import fronts
from nas.search.space import Architecture
from nas.search.trial import STAGES, Result, Stage
from nas.storage.contents import StudyContents
from nas.storage.records import Rejection

Row = dict[str, Any]


@dataclass(frozen=True)
class ArmStudy:
    """The study of one arm of a run; a run without arms is a single one, which has no name.

    Args:
        arm: The name of the arm.
        directory: Its run directory.
        config: Its configuration.
        study: Its candidates.
        parameters: The number of trainable parameters of its candidates, by their numbers, as far as it is recorded.
    """

    arm: str
    directory: Path
    config: Config
    study: StudyContents
    parameters: Mapping[int, int]

    def row(self, result: Result) -> Row:
        """Return a result as a row: genes, score, metrics on validation and costs by column."""
        return {
            **self._start(result, result.stage, "finished"),
            "score": result.score,
            **{name: result.metrics[name] for name in _metric_columns() if name in result.metrics},
            "training_steps": result.step_count,
            "seed": result.seed,
            "seconds": result.seconds,
            "trainable_parameters": self._parameters_of(result.key),
            "predicted_peak_bytes": result.predicted_peak_bytes,
            "measured_peak_bytes": result.measured_peak_bytes,
            "latency_seconds": result.latency_seconds,
            "reason": None,
        }

    def rejected_row(self, rejection: Rejection) -> Row:
        """Return a candidate without a score as a row."""
        return {
            **self._start(rejection, rejection.stage, rejection.status),
            "trainable_parameters": self.parameters.get(rejection.trial),
            "predicted_peak_bytes": rejection.predicted_peak_bytes,
            "measured_peak_bytes": rejection.measured_peak_bytes,
            "reason": rejection.reason,
        }

    def _parameters_of(self, key: ModelKey) -> int | None:
        trial = _trial_of(key)
        if trial is not None:
            return self.parameters.get(trial)
        found: int | None = read_report(self.directory).get(DEFAULT, {}).get("trainable_parameters")
        return found

    def _start(self, entry: Result | Rejection, stage: Stage, status: str) -> Row:
        trial = entry.trial if isinstance(entry, Rejection) else _trial_of(entry.key)
        return {
            **({"arm": self.arm} if self.arm else {}),
            "trial": trial,
            "stage": stage,
            "round": None if trial is None else self.study.rounds.get(trial),
            "status": status,
            **gene_cells(entry.architecture),
        }


def _trial_of(key: ModelKey) -> int | None:
    """Return the number of the candidate that was trained, also with a further seed; None for any other model."""
    origin = key.origin if isinstance(key, RerunKey) else key
    return origin.trial if isinstance(origin, CandidateKey) else None


def read_studies(directory: Path) -> list[ArmStudy]:
    """Read the candidates of a run: of every arm that was reached, in the order of the arms.

    Args:
        directory: The run directory.

    Raises:
        NasError: If it holds no run, or a file of it is damaged.
    """
    if not is_arms_run(directory):
        return [_read("", directory)]
    names = read_arms_run(directory).names
    return [_read(name, path) for name in names if is_run(path := arm_directory(directory, name))]


def _read(arm: str, directory: Path) -> ArmStudy:
    run = read_run(directory)
    return ArmStudy(arm, directory, run.config, read_study(directory, run), read_parameters(directory / RESULTS))


def gene_cells(architecture: Architecture) -> Row:
    """Return the genes of an architecture: numbers and names as they are, values of several layers as text.

    Args:
        architecture: The architecture.
    """
    texts = architecture.texts()
    return {name: value if isinstance(value, int) else texts[name] for name, value in architecture.values().items()}


def _metric_columns() -> tuple[str, ...]:
    return (*metric_names(), *metric_names(role="proxy"))


def trial_rows(studies: Sequence[ArmStudy]) -> list[Row]:
    """Return one row for each candidate and stage, the cheapest stage first, including those without a score.

    Args:
        studies: The studies of the run.
    """
    rows = []
    for entry in studies:
        rows += [entry.row(result) for stage in STAGES for result in entry.study.results(stage)]
        rows += [entry.rejected_row(rejection) for rejection in entry.study.rejections]
    return rows


def column_names(rows: Sequence[Row]) -> list[str]:
    """Return the columns of rows in one order, with all genes and metrics before the costs.

    Args:
        rows: The rows.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    last = [name for name in _LAST if name in names]
    return [*(name for name in names if name not in _LAST), *last]


_LAST = (
    "score",
    *_metric_columns(),
    "training_steps",
    "seed",
    "seconds",
    "trainable_parameters",
    "predicted_peak_bytes",
    "measured_peak_bytes",
    "latency_seconds",
    "reason",
)


def front_rows(studies: Sequence[ArmStudy]) -> list[Row]:
    """Return the candidates of the last stage that nothing beats in score, memory and, where measured, latency.

    Only candidates that meet the constraints take part.

    Args:
        studies: The studies of the run.

    Returns:
        The rows, the highest score first.
    """
    stage = next((stage for stage in reversed(STAGES) if any(entry.study.count(stage) for entry in studies)), None)
    found: list[tuple[ArmStudy, Result]] = []
    for entry in studies if stage is not None else ():
        objectives = Objectives(entry.config.search.objective, constraints=entry.config.search.constraints)
        assert stage is not None
        found += [(entry, result) for result in entry.study.results(stage) if objectives.is_eligible(result)]
    has_latency = all(result.latency_seconds is not None for _, result in found)
    points = [
        (result.score, -float(result.predicted_peak_bytes), -(result.latency_seconds or 0.0) if has_latency else 0.0)
        for _, result in found
    ]
    first = [found[index] for index in fronts(points)[0]] if found else []
    first.sort(key=lambda pair: (-pair[1].score, pair[1].predicted_peak_bytes, pair[1].trial))
    return [entry.row(result) for entry, result in first]
