"""The roles of the comparison: the search file of each, and what a finished run of it has exported.

Every role is a run of the program itself. PMF's default is a search whose space is the default alone, which trains
further seeds of it until its time is over.
"""

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from benchmarks.quality.cells import FRESH, Cell
from benchmarks.quality.seeds import fill_time, train_fresh
from benchmarks.quality.tasks import BenchmarkTask
from nas.common.errors import StudyError
from nas.common.files import write_atomically
from nas.common.progress import LineReporter, Reporter
from nas.config.load import load_config
from nas.config.overrides import Overrides
from nas.run.defaults import complete
from nas.run.directory import read_run
from nas.run.ensemble import read_choice
from nas.run.executors import ExecutionOptions
from nas.run.export_run import export_run
from nas.run.finalize import RELIABILITY, read_report
from nas.run.prepare import predict_memory
from nas.run.recipe_file import RECIPE, RecipeFile
from nas.run.roles import BEST, DEFAULT, LINEAR
from nas.run.search import resume, start

CELL = "cell.json"
"""The facts of a finished cell; written last."""
SINGLE, ENSEMBLE = "single", "ensemble"
FRESH_SEEDS = 2
"""The number of fresh seeds with which the answer of a search is trained."""
_MOST_SEEDS = 100  # the largest `search.rerun_seeds`

DEMO_RECIPE: Mapping[str, Any] = {
    "optimizer": "adamw",
    "learning_rates": {"prompts": 2e-3, "mappings": 2e-3, "classifiers": 4e-3},
    "depth_scaling": 0.5,
    "weight_decay": 2.0,
    "momentum": 0.9,
    "schedule": "cosine",
    "warmup_fraction": 0.1,
    "clip_norm": 1.0,
    "batch_size": 32,
    "epochs": 5,
    "classifier_start": "random",
    "class_weights": "none",
    "label_smoothing": 0.1,
}
"""The recipe of the demo when the comparison was made; repeated here, so that the baseline stays the same."""


@dataclass(frozen=True)
class Settings:
    """What all cells have in common.

    Args:
        runs: The folder of all runs.
        tasks: The tasks by name.
        budget: The section `budget` of every search file.
        options: Where the searches run.
        extra: Sections of settings that are added to every search file; for trial runs.
    """

    runs: Path
    tasks: Mapping[str, BenchmarkTask]
    budget: Mapping[str, Any]
    options: ExecutionOptions
    extra: Mapping[str, Mapping[str, Any]]


def run_cell(cell: Cell, settings: Settings) -> None:
    """Run a cell, or resume it, and write its facts.

    Args:
        cell: The cell.
        settings: The settings.

    Raises:
        NasError: If the run cannot be started or resumed, nothing was trained completely within its budget, or the
            search that fresh seeds belong to is not there.
        Interrupted: If the user has interrupted it; the next call resumes it.
        SystemExit: If the folder has runs with other settings.
    """
    directory = cell.directory(settings.runs)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with directory.with_suffix(".log").open("a", encoding="utf-8") as stream, LineReporter(stream) as reporter:
        if cell.role == FRESH:
            with _counted(directory):
                facts = _run_fresh(cell, directory, settings, reporter)
        else:
            source = _search_file(cell, settings)
            with _counted(directory):
                facts = _run(cell, source, settings, reporter)
    facts["wall_seconds"] = _read_seconds(directory)
    write_atomically(directory / CELL, json.dumps(facts, indent=1).encode())


def _run_fresh(cell: Cell, directory: Path, settings: Settings, reporter: Reporter) -> dict[str, Any]:
    """Train the single answer of a search with seeds that had no part in choosing it."""
    run = replace(cell, role="search").directory(settings.runs)
    if not (run / CELL).exists():
        raise StudyError(f"{run}: is not the run of a finished search; expected that of {replace(cell, role='search')}")
    answer = read_facts(run)["single_answer"]
    directory.mkdir(exist_ok=True)
    if answer != LINEAR:
        role = BEST if answer == SINGLE else answer
        train_fresh(run, role, directory, FRESH_SEEDS, settings.options, reporter)
    return {"answer": answer}


def fresh_models(directory: Path) -> list[Path]:
    """Return the models with fresh seeds of a finished cell; none where the answer has no seeds.

    Args:
        directory: The folder of the cell.
    """
    return sorted(path for path in directory.glob("seed-*") if path.is_dir())


def read_facts(directory: Path) -> dict[str, Any]:
    """Return the facts of a finished cell.

    Args:
        directory: The run directory.
    """
    facts: dict[str, Any] = json.loads((directory / CELL).read_text(encoding="utf-8"))
    return facts


def _run(cell: Cell, source: Path, settings: Settings, reporter: Reporter) -> dict[str, Any]:
    """Run a search, or resume it, export what it has not exported, and return its facts."""
    directory, options, overrides = cell.directory(settings.runs), settings.options, Overrides(seed=cell.seed)
    if not (directory / RELIABILITY).exists():  # written last
        is_default = cell.role.startswith("default")
        start(source, directory, overrides, options, reporter, concludes=not is_default)
        if is_default:
            fill_time(directory, options, reporter)
            resume(directory, Overrides(), replace(options, worker_count=0), reporter)  # nothing is left to train
    if not (directory / RELIABILITY).exists():
        raise StudyError(f"{directory}: nothing was trained completely; expected a larger --budget")
    facts = _facts(directory)
    _export(directory, keeps_default=facts["single_answer"] == DEFAULT)
    return facts


@contextmanager
def _counted(directory: Path) -> Iterator[None]:
    """Add the time of this session to that of a cell, even if it is interrupted."""
    began, before = time.monotonic(), _read_seconds(directory)
    try:
        yield
    finally:
        write_atomically(_seconds_path(directory), f"{before + time.monotonic() - began:.1f}".encode())


def _read_seconds(directory: Path) -> float:
    path = _seconds_path(directory)
    return float(path.read_text()) if path.exists() else 0.0


def _seconds_path(directory: Path) -> Path:
    return directory.with_suffix(".seconds")


def _search_file(cell: Cell, settings: Settings) -> Path:
    """Write the search file of a role and task, and return its path.

    Raises:
        SystemExit: If the folder has runs with other settings.
    """
    directory = settings.runs / cell.task
    path = directory / f"{cell.role}.yaml"
    hidden = settings.tasks[cell.task].hidden(directory)
    default: dict[str, Any] = {}
    if cell.role.startswith("default"):
        default = {gene: [value] for gene, value in _default_genes(hidden, directory).items()}
    values = role_values(cell.role, hidden.values, settings.budget, default)
    for section, entries in settings.extra.items():
        if section != "recipe" or cell.role != "default_fixed":
            values[section] = {**values.get(section, {}), **entries}
    content = yaml.safe_dump(values, sort_keys=False)
    if path.exists() and path.read_text(encoding="utf-8") != content:
        raise SystemExit(
            f"{path}: is of runs with other settings; expected the same; delete the folder or give another --runs"
        )
    write_atomically(path, content.encode())
    return path


def role_values(
    role: str, task: Mapping[str, Any], budget: Mapping[str, Any], default: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the search file of a role.

    Searches export the best single model, so that one run gives both that and the ensemble.

    Args:
        role: The role.
        task: The search file of the task: data, encoders and objective.
        budget: The section `budget`.
        default: The space that is PMF's default alone.
    """
    search: dict[str, Any] = {**task["search"], "answer": "single"}
    values: dict[str, Any] = {**task, "search": search, "budget": dict(budget)}
    if role == "random":
        search["strategy"] = "random"
    if role.startswith("default"):
        # The supernet and short training of a space of one architecture have nothing to order.
        search |= {"short_training_steps": 1, "finalists": 1, "rerun_seeds": _MOST_SEEDS}
        values |= {"space": dict(default), "supernet": {"steps": 1}}
    if role == "default_fixed":
        values["recipe"] = dict(DEMO_RECIPE)
        values["budget"]["recipe_fraction"] = 0.0
    return values


def _default_genes(task: BenchmarkTask, directory: Path) -> Mapping[str, Any]:
    """Return the values of PMF's default architecture for the encoders of a task."""
    source = directory / "default_space.yaml"
    write_atomically(source, yaml.safe_dump(dict(task.values)).encode())
    config = complete(load_config(source), source=str(source))
    _, default = predict_memory(config, source=str(source))
    return default.values()


def _export(directory: Path, *, keeps_default: bool) -> None:
    """Export the ensemble and the best architecture next to what the run has exported; delete what no figure needs."""
    if read_choice(directory).ensemble is not None and not (directory / ENSEMBLE).exists():
        export_run(directory, directory / ENSEMBLE, trial=None, how=("best", 0.0), storage=None, answer="ensemble")
    if read_choice(directory).role != BEST and not (directory / SINGLE).exists():
        export_run(directory, directory / SINGLE, trial=None, how=("best", 0.0), storage=None)
    if not keeps_default:
        shutil.rmtree(directory / DEFAULT, ignore_errors=True)


def exported(directory: Path) -> dict[str, Path]:
    """Return the exported models of a finished cell by their role; without an ensemble, the single model stands in.

    The single model is the best architecture, which the run itself exports only where it is the answer.

    Args:
        directory: The run directory.
    """
    single, ensemble = directory / SINGLE, directory / ENSEMBLE
    single = single if single.exists() else directory / BEST
    simple = {DEFAULT: directory / DEFAULT, LINEAR: directory / LINEAR}
    return {SINGLE: single, ENSEMBLE: ensemble if ensemble.exists() else single, **simple}


def _facts(directory: Path) -> dict[str, Any]:
    """Return what is known of a finished run without asking its models again."""
    report, reliability = read_report(directory), json.loads((directory / RELIABILITY).read_text())
    run, choice = read_run(directory), read_choice(directory)
    config = run.config
    metric = config.search.objective
    race = reliability["race"]
    single_answer = SINGLE if choice.role == BEST else choice.role
    ensemble, best = choice.ensemble, choice.best
    assert best is not None, "the run is concluded"
    validation = {role: entry["validation"][metric] for role, entry in report.items()} | {BEST: best.metrics[metric]}
    return {
        "answer": single_answer if choice.answer("auto") is None else ENSEMBLE,
        "single_answer": single_answer,
        "validation": validation | ({} if ensemble is None else {ENSEMBLE: ensemble.metrics[metric]}),
        "architecture": best.architecture.as_dict(),
        "members": choice.reason if ensemble is None else ensemble.text,
        "recipe": str(RecipeFile(directory / RECIPE).setting),
        "default_is_best": reliability["is_default_best"],
        "expected": None if race is None else race["expected"],
        "phases": reliability["phases"],
        "trainings": reliability["trainings"],
        "raced": None if race is None else race["trainings"],
        "peak_bytes": max(best.measured_peak_bytes, *(entry["measured_peak_bytes"] for entry in report.values())),
        "memory_bytes": config.budget.memory_bytes,
    }
