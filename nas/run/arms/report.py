"""Compare the arms of a search in one table, and put the answer where the search as a whole has it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

from nas.common.errors import StudyError
from nas.common.progress import Reporter
from nas.common.sealed_json import read_sealed_json, write_sealed_json
from nas.common.units import format_bytes
from nas.run.arms.arm_run import ArmRun
from nas.run.arms.directory import arm_directory, read_arms_run
from nas.run.arms.state import STATE, ArmsState, ModelRow
from nas.run.finalize import REPORT, read_report
from nas.run.model_folder import copy_model_folder
from nas.run.phases.arm_trial import ArmTrial
from nas.run.prepare import SearchContext
from nas.run.program_name import command_line
from nas.run.progress_lines import metric_title
from nas.run.roles import BEST
from nas.run.tables import text_table
from nas.search.metric_registry import METRICS
from nas.search.pareto import fronts
from nas.search.space import Architecture
from nas.search.trial import Result

_FRONTS = {"training memory": "predicted_peak_bytes", "parameters": "trainable_parameters"}
"""The costs of the fronts, by their names in the table."""


def trial_rows(trial: ArmTrial, context: SearchContext) -> list[ModelRow]:
    """Return the models of the trial of an arm.

    Args:
        trial: The results of the trial.
        context: What the search of the arm is prepared with.
    """
    default = [result for result in trial.default if result is not None]
    linear = [] if trial.linear is None else [trial.linear]
    return [
        _trial_row(name, results, context) for name, results in (("default", default), ("linear", linear)) if results
    ]


def _trial_row(name: str, results: Sequence[Result], context: SearchContext) -> ModelRow:
    architecture = results[0].architecture
    return ModelRow(
        model=name,
        architecture=str(architecture),
        score=mean(result.score for result in results),
        trainings=len(results),
        trainable_parameters=context.memory.parameter_count(architecture),
        predicted_peak_bytes=max(result.predicted_peak_bytes for result in results),
    )


def conclude(directory: Path, arms: Mapping[str, ArmRun], state: ArmsState, objective: str, reporter: Reporter) -> None:
    """Copy the exported answer, write the report, and show the comparison of the arms.

    Args:
        directory: The directory of the search over arms.
        arms: The runs of all arms.
        state: The state of the search, in which one arm is left.
        objective: The metric of the search.
        reporter: The receiver of messages.

    Raises:
        ExportError: If the answer cannot be copied.
        OSError: If the report cannot be written.
    """
    winner = state.winner
    assert winner is not None
    report = read_report(arms[winner].directory)
    best = report.get(BEST)
    rows = [(name, model) for name in arms if name in state.trials for model in state.trials[name].models]
    if best is not None:
        rows.append((winner, _best_row(best, objective)))
    on_fronts = _on_fronts([model for _, model in rows])
    values = {
        "arm": winner,
        "metric": objective,
        "models": [
            {"arm": name, **asdict(model), "fronts": found}
            for (name, model), found in zip(rows, on_fronts, strict=True)
        ],
        "left_out": {name: asdict(entry) for name, entry in state.left_out.items()},
        "best": best,
    }
    if best is not None:
        copy_model_folder(arms[winner].directory / BEST, directory / BEST, links=True)
    write_sealed_json(directory / REPORT, values)
    for line in _lines(directory, rows, on_fronts, state, objective):
        reporter.note(line)


def _best_row(entry: Mapping[str, Any], objective: str) -> ModelRow:
    members = entry.get("members")
    text = f"ensemble of {len(members)}" if members else str(Architecture.from_dict(entry["architecture"]))
    return ModelRow(
        model=BEST,
        architecture=text,
        score=METRICS[objective].score(entry["validation"][objective]),
        trainings=len(members) if members else 1,
        trainable_parameters=entry["trainable_parameters"],
        predicted_peak_bytes=entry["predicted_peak_bytes"],
    )


def _on_fronts(models: Sequence[ModelRow]) -> list[list[str]]:
    """Return the names of the fronts that each model is on: nothing is better in the metric and in that cost."""
    found: list[list[str]] = [[] for _ in models]
    for name, cost in _FRONTS.items():
        points = [(model.score, -float(getattr(model, cost))) for model in models]
        for index in fronts(points)[0] if points else []:
            found[index].append(name)
    return found


def _lines(
    directory: Path,
    rows: Sequence[tuple[str, ModelRow]],
    on_fronts: Sequence[Sequence[str]],
    state: ArmsState,
    objective: str,
) -> list[str]:
    header = ("arm", "model", f"validation {metric_title(objective)}", "trainings", "parameters", "training memory")
    cells = [
        (
            name,
            f"{model.model}: {model.architecture}",
            f"{METRICS[objective].score(model.score):.3f}",
            str(model.trainings),
            f"{model.trainable_parameters:,}",
            format_bytes(model.predicted_peak_bytes),
            ", ".join(found),
        )
        for (name, model), found in zip(rows, on_fronts, strict=True)
    ]
    lines = [
        "",
        "Arms, on validation (default: mean of its trainings with the recipe as configured; best: selected by the "
        "search; front: nothing is better in the metric and needs less):",
        text_table((*header, "front in"), cells),
        "",
    ]
    for name, left_out in state.left_out.items():
        needs = "" if left_out.needed_bytes is None else f" (from {format_bytes(left_out.needed_bytes)} on)"
        lines.append(f"Left out: {name}{needs}: {left_out.reason}")
    resume = command_line("resume", directory, rest="--budget ...")
    lines.append(f"The answer is that of arm {state.winner}")
    if (directory / BEST).exists():
        predict = command_line("predict", directory / BEST, rest='--image FILE --text "..."')
        lines += [f"Exported model: {directory / BEST}", f"Use it: {predict}"]
    return [*lines, f"Continue all of it with: {resume}"]


def answering_run(directory: Path) -> Path:
    """Return the run directory of the arm that answers, in the directory of a search over arms.

    Args:
        directory: The directory of the search over arms.

    Raises:
        StudyError: If no arm is chosen yet.
        ConfigError: If its description is damaged.
    """
    state = ArmsState(directory / STATE, read_arms_run(directory).names)
    if state.winner is None:
        resume = command_line("resume", directory)
        raise StudyError(f"{directory}: none of its arms is chosen yet; continue with: {resume}")
    return arm_directory(directory, state.winner)


def read_arms_report(directory: Path) -> dict[str, Any]:
    """Read the report of a search over arms; empty if it has none yet.

    Args:
        directory: Its directory.

    Raises:
        StudyError: If the file is damaged.
    """
    path = directory / REPORT
    if not path.exists():
        return {}
    return read_sealed_json(path, _to_report, expected="the report of a search over arms", remedy="delete it")


def _to_report(values: dict[str, Any]) -> dict[str, Any]:
    for entry in values["models"]:
        ModelRow.from_dict({key: value for key, value in entry.items() if key not in ("arm", "fronts")})
    if not isinstance(values["arm"], str):
        raise ValueError(f"arm: expected its name, got {values['arm']!r}")
    return values
