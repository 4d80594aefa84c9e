"""The cells of the comparison with Ray Tune: run a system on a task, then train its answers with fresh seeds."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.mapping import mapped
from benchmarks.peers.reach import Answer, Known, answers
from benchmarks.peers.timeline import Timeline, Training, read_trainings
from benchmarks.peers.tune import ARRAYS, REPORTS, TuneTask, run_tune, train_alone
from benchmarks.quality.cells import Cell
from benchmarks.quality.roles import CELL, Settings, run_cell
from benchmarks.quality.seeds import FIRST_FRESH, origin_of, train_jobs
from benchmarks.quality.tasks import BenchmarkTask
from nas.common.errors import StudyError
from nas.common.files import write_atomically
from nas.common.progress import LineReporter
from nas.config.load import parse_config
from nas.config.schema import Config
from nas.run.defaults import complete
from nas.run.directory import read_run
from nas.run.executors import ExecutionOptions
from nas.search.keys import RecipeKey, RerunKey
from nas.search.recipe_tuning import SETTINGS
from nas.search.trial import Job, Result, job_seed

PLAIN, CACHED = "tune_plain", "tune_cached"
LONG, SHORT = "search_40m", "search_6m"
ROLES = (LONG, PLAIN, CACHED, SHORT)
_FRESH, _TUNED = "fresh.json", "tuned"
FRESH_SEEDS = 3

Outcome = tuple[list[Answer], dict[str, list[float]]]
"""The answers of a cell in their order, and the fresh scores of those that were trained."""


@dataclass(frozen=True)
class PeerSettings:
    """What all cells have in common.

    Args:
        runs: The folder of all cells.
        tasks: The tasks by name.
        budgets: The section `budget` of the search file of each role of a search.
        tune_seconds: The time of Ray Tune.
        tune_trials: The largest number of its trials; -1 for no limit.
        options: Where searches run.
        extra: Sections of settings that are added to the search files; for trial runs.
    """

    runs: Path
    tasks: Mapping[str, BenchmarkTask]
    budgets: Mapping[str, Mapping[str, Any]]
    tune_seconds: float
    tune_trials: int
    options: ExecutionOptions
    extra: Mapping[str, Mapping[str, Any]]

    @property
    def is_quick(self) -> bool:
        return self.options.worker_count == 0


def run_peer_cell(cell: Cell, settings: PeerSettings) -> Outcome:
    """Run a cell, or resume it: a search where it stopped, Ray Tune from the start, fresh seeds one by one.

    Args:
        cell: The cell.
        settings: The settings.

    Raises:
        NasError: If nothing was trained, or the run cannot be started or resumed.
        Interrupted: If the user has interrupted it.
    """
    directory = cell.directory(settings.runs)
    directory.mkdir(parents=True, exist_ok=True)
    found = _run_tune(cell, settings) if cell.role in (PLAIN, CACHED) else _run_search(cell, settings)
    fresh = json.loads((directory / _FRESH).read_text())
    return found, {name: list(scores.values()) for name, scores in fresh.items()}


def outcome_path(cells: Path, cell: Cell) -> Path:
    """Return the file of a finished cell.

    Args:
        cells: The folder of all finished cells.
        cell: The cell.
    """
    return cells / cell.task / f"{cell.role}-{cell.seed}.json"


def write_outcome(path: Path, outcome: Outcome) -> None:
    """Write what a cell has found.

    Args:
        path: Its file.
        outcome: What it has found.
    """
    found, fresh = outcome
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {"answers": [asdict(answer) for answer in found], "fresh": fresh}
    write_atomically(path, json.dumps(values, indent=1).encode())


def read_outcome(path: Path) -> Outcome:
    """Return what a finished cell has found.

    Args:
        path: Its file.
    """
    values = json.loads(path.read_text())
    return [Answer(**answer) for answer in values["answers"]], values["fresh"]


class _FreshScores:
    """File of the fresh scores of configurations, written after every training.

    Args:
        directory: The folder of the cell.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / _FRESH
        self._scores: dict[str, dict[str, float]] = json.loads(self._path.read_text()) if self._path.exists() else {}

    def missing(self, names: Sequence[str]) -> list[tuple[str, int]]:
        """Return the configurations and numbers of seeds that have no score."""
        wanted = [
            (name, number) for name in dict.fromkeys(names) for number in range(FIRST_FRESH, FIRST_FRESH + FRESH_SEEDS)
        ]
        return [(name, number) for name, number in wanted if str(number) not in self._scores.get(name, {})]

    def add(self, name: str, number: int, score: float) -> None:
        """Store a score."""
        self._scores.setdefault(name, {})[str(number)] = score
        write_atomically(self._path, json.dumps(self._scores, indent=1).encode())


def _run_tune(cell: Cell, settings: PeerSettings) -> list[Answer]:
    """Run Ray Tune unless it has finished, and train its last answer with fresh seeds."""
    directory, is_cached = cell.directory(settings.runs), cell.role == CACHED
    config = tune_config(settings.tasks[cell.task].hidden(directory), is_quick=settings.is_quick)
    if not (directory / _TUNED).exists():
        shutil.rmtree(directory)
        directory.mkdir()
        config = tune_config(settings.tasks[cell.task].hidden(directory), is_quick=settings.is_quick)
        seconds, trials = settings.tune_seconds, settings.tune_trials
        run_tune(directory, config, is_cached=is_cached, seed=cell.seed, seconds=seconds, trials=trials)
        (directory / _TUNED).touch()
    reports = directory / REPORTS
    lines = [json.loads(line) for line in reports.read_text().splitlines()] if reports.exists() else []
    known = [Known(line["seconds"], line["trial"], line["score"]) for line in lines]
    found = _some(answers(known, max, settings.tune_seconds), directory)
    chosen = {line["trial"]: line["settings"] for line in lines}[found[-1].configuration]
    fresh, task = _FreshScores(directory), TuneTask(directory.resolve() / ARRAYS, config, is_cached)
    missing = fresh.missing([found[-1].configuration])
    work = [(task, chosen, number) for _, number in missing]
    scores = mapped(train_alone, work, is_quick=settings.is_quick or not work)
    for (name, number), score in zip(missing, scores, strict=True):
        fresh.add(name, number, score)
    return found


def tune_config(task: BenchmarkTask, *, is_quick: bool) -> Config:
    """Return the configuration from which Ray Tune gets its space and recipe: that of a search of this project.

    Its classifiers start at random, as a user's would, so the range of their learning rate is that of such classifiers.

    Args:
        task: The task.
        is_quick: Whether to train for two epochs only.
    """
    recipe: dict[str, Any] = {"classifier_start": "random", **({"epochs": 2} if is_quick else {})}
    values = {**task.values, "recipe": recipe}
    return complete(parse_config(values, source=task.name, base_directory=Path.cwd()), source=task.name)


def _run_search(cell: Cell, settings: PeerSettings) -> list[Answer]:
    """Run a search unless it has finished, and train all of its answers with fresh seeds."""
    directory = cell.directory(settings.runs)
    inner, budget = Cell("search", cell.task, cell.seed), settings.budgets[cell.role]
    # With a cache of its own, so that the time for base features is counted.
    options = replace(settings.options, cache_directory=(directory / "cache").resolve())
    run = Settings(directory, settings.tasks, budget, options, settings.extra)
    place = inner.directory(directory)
    place.parent.mkdir(exist_ok=True)
    timeline = Timeline(place)
    if not (place / CELL).exists():
        with timeline.watched():
            run_cell(inner, run)
    seconds = read_run(place).config.budget.time_seconds
    found = _some(answers(timeline.known(), mean, float("inf") if seconds is None else seconds), directory)
    fresh = _FreshScores(directory)
    missing = fresh.missing([answer.configuration for answer in found])
    if missing:
        trainings = {training.configuration: training for training in reversed(read_trainings(place))}
        jobs = [_fresh_job(trainings[name], read_run(place).config.seed, number) for name, number in missing]
        by_key = dict(zip((job.key for job in jobs), missing, strict=True))

        def take(result: Result) -> None:
            fresh.add(*by_key[result.key], result.score)

        with directory.with_suffix(".log").open("a", encoding="utf-8") as stream, LineReporter(stream) as reporter:
            train_jobs(place, iter(jobs), options, reporter, take)
    shutil.rmtree(directory / "cache", ignore_errors=True)
    return found


def _fresh_job(training: Training, seed: int, number: int) -> Job:
    result = training.result
    is_recipe = isinstance(result.key, RecipeKey)
    return Job(
        key=RecipeKey(training.setting, number) if is_recipe else RerunKey(origin_of(result.key), number),
        architecture=result.architecture,
        stage="full",
        step_count=result.step_count,
        seed=job_seed(seed, "full", result.architecture, rerun=number),
        predicted_peak_bytes=result.predicted_peak_bytes,
        micro_batches=result.micro_batches,
        recipe=SETTINGS[training.setting],
    )


def _some(found: list[Answer], directory: Path) -> list[Answer]:
    if not found:
        raise StudyError(f"{directory}: nothing was trained within its time; expected a larger one")
    return found
