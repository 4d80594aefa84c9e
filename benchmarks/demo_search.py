"""The whole demo search for several seeds: test accuracy of its answer, of PMF's default, and of a linear probe.

The test split is read here, at the end of a development that saw validation only. Runs that are there are not repeated.
Run: python -m benchmarks.demo_search [--seeds 0 1 2] [--budget 4m] [--json FILE] [--quick]
"""

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any

from benchmarks.models import DEMO
from nas.budget import parse_budget
from nas.metrics import standard_error
from nas.progress import build_reporter
from nas.report import table
from nas.runs import CONFIG, Machine, Overrides, resume, start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--budget", default="4m")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the run directories lie")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="one seed, 60 seconds: shows that the script works")
    options = parser.parse_args()
    seeds, budget = ([0], "60s") if options.quick else (options.seeds, options.budget)
    reports = [run(options.runs / f"demo-{budget}-seed{seed}", seed, budget) for seed in seeds]

    rows, figures = [], {}
    for role in ("best", "default"):
        test = [report[role]["test"]["accuracy"] for report in reports]
        validation = [report[role]["validation"]["accuracy"] for report in reports]
        count = reports[0][role]["test_samples"]
        spread = statistics.stdev(test) if len(test) > 1 else 0.0
        figures[role] = {
            "validation": validation,
            "test": test,
            "test_mean": statistics.mean(test),
            "test_standard_deviation": spread,
            "test_standard_error": standard_error(statistics.mean(test), count),
            "architectures": [report[role]["architecture"] for report in reports],
        }
        rows.append(
            (
                role,
                " ".join(f"{value:.4f}" for value in validation),
                " ".join(f"{value:.4f}" for value in test),
                f"{statistics.mean(test):.4f}",
                f"{spread:.4f}",
                f"{standard_error(statistics.mean(test), count):.4f}",
            )
        )
    header = (
        "",
        "validation",
        "test",
        "test mean",
        "standard deviation over seeds",
        "standard error of a test accuracy",
    )
    print(table(header, rows))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


def run(directory: Path, seed: int, budget: str) -> dict[str, Any]:
    """Search with one seed, or finish the search that is there; returns its report."""
    seconds, trials = parse_budget(budget)
    overrides = Overrides(time_seconds=seconds, trials=trials, seed=seed)
    machine = Machine(worker_count=os.cpu_count() or 1)
    if not (directory / "report.json").exists():
        with build_reporter() as reporter:
            if (directory / CONFIG).exists():
                resume(directory, overrides, machine, reporter)
            else:
                start(DEMO, directory, overrides, machine, reporter)
    if not (directory / "report.json").exists():
        raise SystemExit(f"{directory}: no finalist was finished within {budget}; give a larger --budget")
    report: dict[str, Any] = json.loads((directory / "report.json").read_text())
    return report


if __name__ == "__main__":
    main()
