"""Compare the answers of searches with PMF's default, the linear classifier and random search, over the suite's tasks.

Runs whole programs, cell by cell (a task, a role and a seed), each with the same time budget:

- search: a search file with `data`, `encoders` and the objective alone. One run gives the best `single` model, the
  `ensemble`, and the `answer`: the ensemble or the single model as `answer: auto` chooses, or the simpler model where
  nothing is better beyond chance. Its `linear` classifier is compared as well.
- random: the same with random search.
- default_tuned: PMF's default with a recipe that is tuned as in a search, then with further seeds until the time is
  over. `single` is the seed that validation prefers; `ensemble` is chosen from all seeds as in a search.
- default_fixed: the same with the recipe of the demo, which is not tuned.
- fresh: the single answer of each search, trained with two seeds that had no part in choosing it.

Ensembles are compared with ensembles, single models with single models: `X_over_Y` is the mean metric of X over the
searches minus that of Y, with a 95 % interval (see `benchmarks.quality.bootstrap`), for each data set and pooled with
equal weight. The metric is the task's. The intervals speak of these data sets, not of data sets in general; two of them
share pictures.
`answer_over_better_simple` is the answer minus the best mean among linear, the tuned default, and its ensemble.
`coverage` counts the searches whose 90 % interval of the expected metric holds the mean of the fresh seeds.

No search has access to the test split: validation takes its place. `--split` selects the samples on which the exported
models are compared, from raw images and texts: validation for development, on which models were chosen, so that figures
of what has chosen from more models there are too high, and coverage means little; test once, at the end.

All cells take about 8 hours on 2 cores. A finished one leaves a small file in the folder of `--cells`, from which the
figures follow without its run, and is not run again, so that several machines or days can share the work. Cells that
are missing are named, and figures that need them are marked; those of test are not shown before all cells are finished.
Each run writes its messages to a log next to its directory.

Run: python -m benchmarks.search_quality --data DIR [--task NAME ...] [--seeds N] [--budget 6m] [--until MINUTES]
     [--split validation|test] [--runs DIR] [--cells DIR] [--workers 2] [--peers FILE]
     [--json FILE]; or with --quick alone
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.models import write_figures
from benchmarks.quality.cells import FRESH, Cell, ordered_cells, run_cells
from benchmarks.quality.figures import compare, gather, show, with_peers
from benchmarks.quality.finished import FinishedCells, ask_models
from benchmarks.quality.roles import CELL, Settings, run_cell
from benchmarks.quality.tasks import BenchmarkTask, quick_task, suite_tasks
from benchmarks.suite.tasks import TASKS
from nas.common.errors import NasError
from nas.common.interrupt import Interrupted
from nas.common.units import format_seconds
from nas.models.encoders.pretrained import silence_transformers
from nas.run.arguments import parse_budget
from nas.run.executors import ExecutionOptions

_BEYOND_BUDGET = 120.0
"""Seconds that a cell is expected to take beyond its budget: preparation, features and evaluation."""
QUICK_EXTRA: dict[str, dict[str, Any]] = {
    "recipe": {"steps": 4},
    "supernet": {"steps": 2},
    "search": {"round_size": 4, "short_training_steps": 1, "finalists": 1, "rerun_seeds": 1},
}


def main() -> None:
    options = _parse()
    silence_transformers()
    runs = options.runs
    settings, skipped = _quick_settings(runs) if options.quick else _settings(options)
    cells = ordered_cells(list(settings.tasks), 1 if options.quick else options.seeds)
    finished = FinishedCells(options.cells or runs / "cells", options.split, settings.budget)

    def run(cell: Cell) -> None:
        try:
            if not (cell.directory(runs) / CELL).exists():
                run_cell(cell, settings)
            known = ask_models(cell, settings.tasks[cell.task], runs, split=options.split, is_quick=options.quick)
        except NasError as error:
            print(f"{cell}: failed: {error}", flush=True)
        else:
            finished.add(cell, known)
            print(f"{cell}: {line(cell, known.facts)}", flush=True)

    for name, reason in skipped.items():
        print(f"{name}: skipped: {reason}", flush=True)
    seconds = math.inf if options.until is None else 60 * options.until
    expected = (parse_budget(options.budget)[0] or 0.0) + _BEYOND_BUDGET
    try:
        missing = run_cells(cells, run, finished.has, seconds=seconds, expected_seconds=expected)
    except Interrupted:
        raise SystemExit("interrupted; the next start resumes the running cell") from None
    if missing and options.split == "test":
        print(f"no figures of test before all cells are finished; {len(missing)} are missing: {names(missing)}")
        return
    known = {cell: finished.read(cell) for cell in cells if finished.has(cell)}
    evidence = {name: gather({cell: known[cell] for cell in known if cell.task == name}) for name in settings.tasks}
    figures = compare(evidence, missing, skipped)
    figures |= {"split": options.split, "budget": dict(settings.budget)}
    if options.peers is not None:
        figures = with_peers(figures, json.loads(options.peers.read_text(encoding="utf-8")))
    show(figures)
    write_figures(options.json, figures)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="DIR", help="the --output of benchmarks.suite.make")
    parser.add_argument("--task", nargs="+", choices=sorted(TASKS), default=list(TASKS), help="default: all")
    parser.add_argument("--seeds", type=int, metavar="N", help="at most this many seeds of each role")
    parser.add_argument("--budget", default="6m", help="time of each search (default: 6m)")
    parser.add_argument("--until", type=float, metavar="MINUTES", help="start no cell that would end later than this")
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--runs", type=Path, default=Path("runs") / "search_quality", help="folder of the runs")
    parser.add_argument("--cells", type=Path, help="folder of the files of finished cells (default: RUNS/cells)")
    parser.add_argument("--workers", type=int, help="number of workers (default: what the machine allows)")
    parser.add_argument("--peers", type=Path, metavar="FILE", help="the --json of benchmarks.peers.time_to_tune")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the figures")
    parser.add_argument("--quick", action="store_true", help="trial run: one seed, a few samples of the demo's data")
    options = parser.parse_args()
    if options.data is None and not options.quick:
        parser.error("--data is missing; expected the folder that benchmarks.suite.make has built, or --quick")
    return options


def _settings(options: argparse.Namespace) -> tuple[Settings, dict[str, str]]:
    """Return the settings of all cells, and why tasks are skipped."""
    tasks, skipped = suite_tasks(options.data, options.task)
    settings = Settings(
        runs=options.runs,
        tasks={task.name: task for task in tasks},
        budget={"time": options.budget},
        options=ExecutionOptions(worker_count=options.workers),
        extra={},
    )
    return settings, skipped


def _quick_settings(runs: Path) -> tuple[Settings, dict[str, str]]:
    """Return the settings of a trial run, whose budgets are in trials, and which trains in this process."""
    task: BenchmarkTask = quick_task(runs / "quick")
    budget = {"trials": 4, "recipe_fraction": 0.2}
    return Settings(runs, {task.name: task}, budget, ExecutionOptions(worker_count=0), QUICK_EXTRA), {}


def names(cells: Sequence[Cell]) -> str:
    """Return the names of cells in one line.

    Args:
        cells: The cells.
    """
    return ", ".join(map(str, cells))


def line(cell: Cell, facts: Mapping[str, Any]) -> str:
    """Return the line about a finished cell.

    Args:
        cell: The cell.
        facts: Its facts.
    """
    took = f"{format_seconds(facts['wall_seconds'])} in all"
    if cell.role == FRESH:
        return f"the answer ({facts['answer']}) with fresh seeds, {took}"
    values = ", ".join(f"{name} {value:.3f}" for name, value in facts["validation"].items())
    spent = format_seconds(sum(facts["phases"].values()))
    return (
        f"answer: {facts['answer']}; on validation {values}; recipe: {facts['recipe']}; {spent} of its budget, {took}"
    )


if __name__ == "__main__":
    main()
