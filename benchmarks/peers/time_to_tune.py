"""Measure how fast a search reaches the answer of Ray Tune with OptunaSearch and ASHA.

Runs, cell by cell (a task, a system and a seed):

- tune_plain: `benchmarks.peers.tune` in 40 minutes of two workers, with whole frozen encoders in every step;
- tune_cached: the same reading base features that are computed once, in the same 40 minutes;
- search_40m: a search with the automatic settings in 40 minutes of two workers, with an empty cache;
- search_6m: the same in 6 minutes.

The answer at a time is the configuration (architecture and learning rates) preferred on validation by what was known
then: for a search the highest mean over full trainings, those of its recipe phase and of the default included, but not
the linear classifier; for Ray Tune the trial with the highest score after any epoch. Its value is the mean validation
score of three trainings with fresh seeds, which follow the run.

`time_to_tune_*` is 40 minutes divided by the time in which the 40-minute search reaches the value of Ray Tune's answer
at 40 minutes; 0 if it never does. `six_minutes_over_tune_*` is the value of the 6-minute search's answer minus Ray
Tune's. Both are means over seeds, by data set and pooled with equal weight, with 95 % intervals of a paired bootstrap
over seeds, the fresh ones included. With two seeds the intervals are too narrow.

A finished cell leaves a small file in the folder of `--cells`, and is not run again. In one that was interrupted, a
search resumes, Ray Tune starts again, and fresh seeds that are trained are not trained again. All cells take about 8
hours on 2 cores.

Run: python -m benchmarks.peers.time_to_tune --data DIR [--task NAME ...] [--seeds 2] [--until MINUTES] [--runs DIR]
     [--cells DIR] [--json FILE]; or with --quick alone.
     `benchmarks.search_quality --peers FILE` adds the figures to its own.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.models import write_figures
from benchmarks.peers.cells import (
    CACHED,
    LONG,
    PLAIN,
    ROLES,
    SHORT,
    Outcome,
    PeerSettings,
    outcome_path,
    read_outcome,
    run_peer_cell,
    write_outcome,
)
from benchmarks.peers.reach import Pair, lead, speed_up
from benchmarks.quality.bootstrap import Difference
from benchmarks.quality.cells import Cell, run_cells
from benchmarks.quality.tasks import quick_task, suite_tasks
from benchmarks.search_quality import QUICK_EXTRA
from nas.common.errors import NasError
from nas.common.interrupt import Interrupted
from nas.models.encoders.pretrained import silence_transformers
from nas.run.executors import ExecutionOptions

TASKS = ("clipart", "easy-vqa")
TUNE_SECONDS = 2400.0
KEYS: Mapping[str, tuple[str, str]] = {
    "time_to_tune_plain": (LONG, PLAIN),
    "time_to_tune_cached": (LONG, CACHED),
    "six_minutes_over_tune_plain": (SHORT, PLAIN),
    "six_minutes_over_tune_cached": (SHORT, CACHED),
}
"""The figures by their names: the search and the form of Ray Tune that they compare."""


def main() -> None:
    options = _parse()
    silence_transformers()
    runs: Path = options.runs
    settings, skipped = (_quick_settings(runs), {}) if options.quick else _settings(options)
    cells = [Cell(role, task, seed) for seed in range(options.seeds) for role in ROLES for task in settings.tasks]

    finished: Path = options.cells or runs / "cells"

    def is_done(cell: Cell) -> bool:
        return outcome_path(finished, cell).exists()

    def run(cell: Cell) -> None:
        try:
            outcome = run_peer_cell(cell, settings)
        except NasError as error:
            print(f"{cell}: failed: {error}", flush=True)
        else:
            write_outcome(outcome_path(finished, cell), outcome)
            print(f"{cell}: {_line(outcome)}", flush=True)

    for name, reason in skipped.items():
        print(f"{name}: skipped: {reason}", flush=True)
    seconds = math.inf if options.until is None else 60 * options.until
    try:
        run_cells(cells, run, is_done, seconds=seconds, expected_seconds=TUNE_SECONDS)
    except Interrupted:
        raise SystemExit("interrupted; the next start resumes the running cell") from None
    figures = compare(finished, cells)
    for name in figures["missing"]:
        print(f"{name}: missing")
    for name, entries in (("pooled", figures["pooled"]), *figures["data_sets"].items()):
        for key in KEYS:
            if key in entries:
                entry = entries[key]
                print(f"{name} {key}: {entry['mean']:.3f} ({entry['low']:.3f} to {entry['high']:.3f})")
    write_figures(options.json, figures)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="DIR", help="the --output of benchmarks.suite.make")
    parser.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS), help="default: all")
    parser.add_argument("--seeds", type=int, default=2, metavar="N", help="number of seeds (default: 2)")
    parser.add_argument("--until", type=float, metavar="MINUTES", help="start no cell that would end later than this")
    parser.add_argument("--runs", type=Path, default=Path("runs") / "time_to_tune", help="folder of the runs")
    parser.add_argument("--cells", type=Path, help="folder of the files of finished cells (default: RUNS/cells)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the figures")
    parser.add_argument("--quick", action="store_true", help="trial run: two trials, a few samples of the demo's data")
    options = parser.parse_args()
    if options.data is None and not options.quick:
        parser.error("--data is missing; expected the folder that benchmarks.suite.make has built, or --quick")
    if options.quick:
        options.seeds = 1
    return options


def _settings(options: argparse.Namespace) -> tuple[PeerSettings, dict[str, str]]:
    """Return the settings of all cells, and why tasks are skipped."""
    tasks, skipped = suite_tasks(options.data, options.task)
    settings = PeerSettings(
        runs=options.runs,
        tasks={task.name: task for task in tasks},
        budgets={LONG: {"time": "40m"}, SHORT: {"time": "6m"}},
        tune_seconds=TUNE_SECONDS,
        tune_trials=-1,
        options=ExecutionOptions(worker_count=2),
        extra={},
    )
    return settings, skipped


def _quick_settings(runs: Path) -> PeerSettings:
    """Return the settings of a trial run, whose budgets are in trials."""
    task = quick_task(runs / "quick")
    budget = {"trials": 4, "recipe_fraction": 0.0}
    return PeerSettings(
        runs=runs,
        tasks={task.name: task},
        budgets={LONG: budget, SHORT: budget},
        tune_seconds=TUNE_SECONDS,
        tune_trials=2,
        options=ExecutionOptions(worker_count=0),
        extra=QUICK_EXTRA,
    )


def _line(outcome: Outcome) -> str:
    """Return the line about a finished cell."""
    found, fresh = outcome
    shown = [
        f"{answer.seconds:.0f} s {sum(scores) / len(scores):.3f}"
        for answer in found
        if (scores := fresh.get(answer.configuration))
    ]
    return f"{len(found)} answers; values with fresh seeds: {', '.join(shown)}"


def compare(finished: Path, cells: Sequence[Cell]) -> dict[str, Any]:
    """Return the figures of all finished cells.

    Args:
        finished: The folder of the files of finished cells.
        cells: The cells; figures of seeds that are not finished are without them, and named as incomplete.
    """
    paths = {cell: outcome_path(finished, cell) for cell in cells}
    done = {cell: read_outcome(path) for cell, path in paths.items() if path.exists()}
    by_task: dict[str, dict[str, Any]] = {task: {} for task in dict.fromkeys(cell.task for cell in cells)}
    found: dict[str, list[Difference]] = {key: [] for key in KEYS}
    incomplete: list[str] = []
    for place, task in enumerate(by_task):
        seeds = dict.fromkeys(cell.seed for cell in cells)
        for key, roles in KEYS.items():
            both = [tuple(Cell(role, task, seed) for role in roles) for seed in seeds]
            pairs = [_pair(done[ours], done[theirs]) for ours, theirs in both if ours in done and theirs in done]
            if len(pairs) < len(both):
                incomplete.append(f"{task}.{key}")
            if pairs:
                is_lead = key.startswith("six_minutes")
                difference = lead(pairs, seed=place) if is_lead else speed_up(pairs, TUNE_SECONDS, seed=place)
                found[key].append(difference)
                by_task[task][key] = difference.interval()
        by_task[task]["time_to_tune_cells"] = {
            f"{cell.role} {cell.seed}": {"answers": [asdict(answer) for answer in known], "fresh": fresh}
            for cell, (known, fresh) in done.items()
            if cell.task == task
        }
    incomplete += [f"pooled.{key}" for key in KEYS if any(entry.endswith(f".{key}") for entry in incomplete)]
    return {
        "pooled": {key: Difference.pooled(parts).interval() for key, parts in found.items() if parts},
        "data_sets": by_task,
        "missing": [str(cell) for cell in cells if cell not in done],
        "incomplete": incomplete,
    }


def _pair(ours: Outcome, theirs: Outcome) -> Pair:
    """Return a search and the last answer of Ray Tune."""
    (found, fresh), (their_answers, their_fresh) = ours, theirs
    return Pair(found, fresh, their_fresh[their_answers[-1].configuration])


if __name__ == "__main__":
    main()
