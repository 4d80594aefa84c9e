"""Compare the times that a search announces before it trains anything with those that it takes.

Prints for the whole and each phase the planned and the measured seconds and their ratio, and in how many runs all that
take more than a minute are within 30 % of the plan; the aim is 9 of 10. A race may end before its time, when its best
model is separated. Run on a quiet machine:
python -m benchmarks.plan_times [--search FILE] [--budget 4m] [--runs 1] [--json FILE] [--quick]
"""

import argparse
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.models import DEMO
from nas.common.files import write_atomically
from nas.common.progress import Reporter
from nas.common.units import parse_seconds
from nas.config.overrides import Overrides
from nas.run.executors import ExecutionOptions
from nas.run.reruns import RERUNS, RerunStore
from nas.run.search import start
from nas.run.tables import text_table
from nas.run.time_budget import TimeAccount

QUICK_SECONDS = 70.0
COUNTED_FROM_SECONDS = 60.0
TOLERANCE = 0.3
PHASES = {
    "recipe": ("recipe",),
    "supernet": ("supernet",),
    "candidates": ("screening", "short training"),
    "finalists": ("full training",),
    "race": ("race",),
}
"""The phases whose time is measured, and the names of what the plan has for them."""

WHOLE = "whole"


class PlanReader(Reporter):
    """Shows the notes of a search, and reads the first plan among them."""

    def __init__(self) -> None:
        self.planned: dict[str, float] = {}

    def note(self, text: str) -> None:
        print(text, flush=True)
        if text.startswith("Plan: ") and not self.planned:
            entries = [
                re.fullmatch(r"(.+?) (?:up to )?(\S+)", entry) for entry in text[6:].partition(";")[0].split(" → ")
            ]
            self.planned = {entry[1]: parse_seconds(entry[2]) for entry in entries if entry is not None}

    def progress(
        self, phase: str, done: int, total: int | None, detail: str = "", *, left_seconds: float | None = None
    ) -> None:
        del phase, done, total, detail, left_seconds


def measure(source: Path, seconds: float, *, seed: int, workers: int) -> dict[str, Any]:
    """Run a search, and return the planned and the measured seconds of each phase and of the whole.

    Args:
        source: The search file.
        seconds: The time budget.
        seed: The seed of the search.
        workers: The number of workers.
    """
    reader = PlanReader()
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "run"
        start(source, run, Overrides(time_seconds=seconds, seed=seed), ExecutionOptions(workers), reader)
        account = TimeAccount(run / "time.json")
        reruns = len(RerunStore(run / RERUNS).results())
    planned = {
        phase: sum(reader.planned[entry] for entry in entries if entry in reader.planned)
        for phase, entries in PHASES.items()
    }
    measured = {phase: account.phases.get(phase, 0.0) for phase in PHASES}
    before = sum(time for phase, time in account.phases.items() if phase not in PHASES)
    planned[WHOLE] = before + sum(planned.values())
    measured[WHOLE] = account.spent_seconds
    return {"seed": seed, "planned": planned, "measured": measured, "reruns": reruns, "load": os.getloadavg()[0]}


def ratios(run: dict[str, Any]) -> dict[str, float]:
    """Return the measured over the planned time of all that take more than a minute.

    Args:
        run: The times of a run.
    """
    planned, measured = run["planned"], run["measured"]
    return {
        phase: measured[phase] / planned[phase]
        for phase in planned
        if planned[phase] and max(planned[phase], measured[phase]) > COUNTED_FROM_SECONDS
    }


def main() -> None:
    """Run the searches and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search", type=Path, default=DEMO, metavar="FILE", help="search file (default: the demo)")
    parser.add_argument("--budget", type=parse_seconds, default=240.0, help="time budget (default: 4m)")
    parser.add_argument("--runs", type=int, default=1, help="number of searches, each with its own seed (default: 1)")
    parser.add_argument("--workers", type=int, default=2, help="number of workers (default: 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the figures")
    parser.add_argument("--quick", action="store_true", help=f"trial run of {QUICK_SECONDS:.0f} seconds")
    options = parser.parse_args()
    budget = QUICK_SECONDS if options.quick else options.budget
    runs = []
    for seed in range(options.runs):
        run = measure(options.search, budget, seed=seed, workers=options.workers)
        runs.append(run)
        rows = [
            (phase, f"{planned:.0f} s", f"{run['measured'][phase]:.1f} s", f"{run['measured'][phase] / planned:.2f}")
            for phase, planned in run["planned"].items()
            if planned
        ]
        print(text_table(("phase", "planned", "measured", "ratio"), rows))
        if options.json is not None:
            write_atomically(options.json, (json.dumps(runs, indent=1) + "\n").encode())
    right = sum(all(abs(ratio - 1) <= TOLERANCE for ratio in ratios(run).values()) for run in runs)
    print(f"within {TOLERANCE:.0%} of the plan in {right} of {len(runs)} runs")


if __name__ == "__main__":
    main()
