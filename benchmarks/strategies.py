"""Compare strategies: how soon each finds the best, on the table, its surrogate, and functions on a larger space.

An evaluation is one score with the noise of one training (`benchmarks.pmf_bench.landscapes`). Every strategy runs with
the same seeds and the settings of `search_spaces/demo.yaml`, without initial architectures.

- regret: the best mean of the space, minus the mean of the architecture with the best score so far.
- evaluations_to_top_1_percent: the number of evaluations until an architecture was evaluated whose mean is in the best
  hundredth of the space; the median over seeds. Seeds that never reach it count as all evaluations plus one.
- worse_than_random: one-sided Mann-Whitney test of these numbers, below 0.05 after Holm's correction.

Intervals are 95 % bootstrap intervals over seeds.

Takes an hour or more. Finished searches in the file of `--json` are not repeated. If the file has all requested
strategies, it is only shown; otherwise it is completed, and keeps the strategies that it already has.

Run: python -m benchmarks.strategies [--seeds 50] [--evaluations 100] [--strategy NAME ...] [--table FILE] [--json FILE]
     [--quick]
"""

import argparse
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from benchmarks.mapping import mapped
from benchmarks.models import DEMO, write_figures
from benchmarks.pmf_bench.landscapes import Landscape, cross_validated, landscapes
from benchmarks.pmf_bench.table import TABLE, read_table
from nas.config.load import load_config
from nas.run.tables import text_table
from nas.search.strategies.registry import STRATEGIES, build_strategy

_SHOWN = (10, 25, 50, 100)


@dataclass(frozen=True)
class Course:
    """The course of one search.

    Args:
        regret: The regret after every evaluation.
        reached_top: The number of evaluations until the best hundredth was reached; all plus one if it was not.
    """

    regret: list[float]
    reached_top: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=50, help="number of seeds (default: 50)")
    parser.add_argument("--evaluations", type=int, default=100, help="evaluations per search (default: 100)")
    parser.add_argument("--strategy", choices=STRATEGIES, nargs="+", default=list(STRATEGIES))
    parser.add_argument("--table", type=Path, default=TABLE, help="table of trainings (default: the committed one)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the figures; resumes from it if it exists")
    parser.add_argument("--quick", action="store_true", help="trial run: 2 seeds, 2 folds and 10 evaluations")
    options = parser.parse_args()
    seeds, evaluations, folds = (2, 10, 2) if options.quick else (options.seeds, options.evaluations, 10)
    table_digest = hashlib.sha256(options.table.read_bytes()).hexdigest()[:16]
    figures = kept(options.json, {"seeds": seeds, "evaluations": evaluations, "table": table_digest})
    wanted = sorted({*options.strategy, *strategies_of(figures)}, key=STRATEGIES.names().index)
    if "courses" not in figures and wanted == strategies_of(figures):
        for name, landscape_figures in figures["landscapes"].items():
            show(name, landscape_figures)
        return
    figures.setdefault("courses", {})
    figures["surrogate"] = cross_validated(read_table(options.table), folds)
    accuracy = ", ".join(f"{name} {value:.3f}" for name, value in figures["surrogate"].items())
    print(f"surrogate on held-out architectures: {accuracy}")
    work = [
        (options.table, place, name, seed, evaluations)
        for place, landscape in enumerate(known(options.table))
        for name in wanted
        if name not in figures["courses"].get(landscape.name, {})
        for seed in range(seeds)
    ]
    found = map(asdict, mapped(course_of, work, is_quick=options.quick))
    for landscape in known(options.table):
        courses = figures["courses"].setdefault(landscape.name, {})
        for name in wanted:
            if name in courses:
                continue
            courses[name] = list(itertools.islice(found, seeds))
            print(f"{landscape.name}: {name} finished", flush=True)
            write_figures(options.json, figures)
        runs = {name: [Course(**entry) for entry in courses[name]] for name in wanted}
        figures["landscapes"][landscape.name] = summary(landscape, runs, evaluations)
        show(landscape.name, figures["landscapes"][landscape.name])
    of_surrogate = figures["landscapes"]["surrogate"]["strategies"]
    figures["evaluations_to_top_1_percent"] = {
        name: entry["evaluations_to_top_1_percent"] for name, entry in of_surrogate.items()
    }
    figures["default_strategy"] = load_config(DEMO).search.strategy
    del figures["courses"]  # only needed to resume
    write_figures(options.json, figures)


def kept(path: Path | None, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of an earlier run with the same settings, with its courses if it is unfinished; else none."""
    if path is not None and path.exists():
        figures: dict[str, Any] = json.loads(path.read_text())
        if {name: figures.get(name) for name in settings} == settings:
            return figures
    return {**settings, "landscapes": {}}


def strategies_of(figures: dict[str, Any]) -> list[str]:
    """Return the strategies that a run has finished or begun, in the order of `STRATEGIES`."""
    finished = {name for entry in figures["landscapes"].values() for name in entry["strategies"]}
    begun = {name for courses in figures.get("courses", {}).values() for name in courses}
    return sorted(finished | begun, key=STRATEGIES.names().index)


@cache
def known(path: Path) -> list[Landscape]:
    """Return the landscapes of a table, built once for each process."""
    return landscapes(path)


def course_of(work: tuple[Path, int, str, int, int]) -> Course:
    """Run one search of one strategy on one landscape."""
    path, place, name, seed, evaluations = work
    return course(known(path)[place], name, seed, evaluations)


def course(landscape: Landscape, name: str, seed: int, evaluations: int) -> Course:
    """Run one search: propose, evaluate, observe."""
    strategy = build_strategy(
        name,
        space=landscape.space,
        seed=seed,
        is_feasible=landscape.knows,
        settings=load_config(DEMO).search.evolution.settings(),
    )
    best_score, best_mean, highest_mean = float("-inf"), float("-inf"), float("-inf")
    regret: list[float] = []
    reached = evaluations + 1
    for count in range(1, evaluations + 1):
        architecture = strategy.ask()
        if architecture is None:
            regret += [regret[-1]] * (evaluations - len(regret))
            break
        score, mean = landscape.evaluate(architecture, seed), landscape.mean(architecture)
        strategy.tell(architecture, score)
        if score > best_score:
            best_score, best_mean = score, mean
        highest_mean = max(highest_mean, mean)
        if highest_mean >= landscape.top:
            reached = min(reached, count)
        regret.append(landscape.best - best_mean)
    return Course(regret, reached)


def summary(landscape: Landscape, courses: Mapping[str, Sequence[Course]], evaluations: int) -> dict[str, Any]:
    """Return the figures of one landscape."""
    found: dict[str, Any] = {}
    chance = [course.reached_top for course in courses.get("random", [])]
    for name, runs in courses.items():
        reached = [run.reached_top for run in runs]
        regret = np.array([run.regret for run in runs])
        shown = [count for count in _SHOWN if count <= evaluations]
        found[name] = {
            "evaluations_to_top_1_percent": float(np.median(reached)),
            "evaluations_interval": interval(np.array(reached, float), "median"),
            "share_that_reached_it": float(np.mean(np.array(reached) <= evaluations)),
            "regret": {str(count): float(regret[:, count - 1].mean()) for count in shown},
            "regret_interval": {str(count): interval(regret[:, count - 1], "mean") for count in shown},
        }
        if chance and name != "random":
            worse = mannwhitneyu(reached, chance, alternative="greater").pvalue
            found[name]["p_worse_than_random"] = float(worse)
    tested = sorted((name for name in found if name != "random" and chance), key=lambda name: p_value(found, name))
    is_worse = True
    for place, name in enumerate(tested):
        is_worse = is_worse and p_value(found, name) * (len(tested) - place) < 0.05
        found[name]["worse_than_random"] = is_worse
    return {"noise": landscape.noise, "best": landscape.best, "top_1_percent": landscape.top, "strategies": found}


def p_value(found: dict[str, Any], name: str) -> float:
    """Return the p-value of the test against random search."""
    value: float = found[name]["p_worse_than_random"]
    return value


def interval(values: NDArray[np.float64], statistic: str) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a statistic."""
    drawn = np.random.default_rng(0).choice(values, (2000, len(values)))
    statistics = np.median(drawn, axis=1) if statistic == "median" else drawn.mean(axis=1)
    low, high = np.quantile(statistics, [0.025, 0.975])
    return float(low), float(high)


def show(name: str, figures: dict[str, Any]) -> None:
    """Print the table of one landscape."""
    print(
        f"\n{name}: best {figures['best']:.4f}, top hundredth from {figures['top_1_percent']:.4f}, one evaluation ± ",
        end="",
    )
    print(f"{figures['noise']:.4f}")
    counts = list(next(iter(figures["strategies"].values()))["regret"])
    rows = []
    for strategy, entry in figures["strategies"].items():
        low, high = entry["evaluations_interval"]
        regrets = []
        for count in counts:
            least, most = entry["regret_interval"][count]
            regrets.append(f"{entry['regret'][count]:.4f} ({least:.4f}-{most:.4f})")
        worse = "" if "worse_than_random" not in entry else "yes" if entry["worse_than_random"] else "no"
        reached = f"{entry['evaluations_to_top_1_percent']:.0f} ({low:.0f}-{high:.0f})"
        rows.append((strategy, reached, f"{entry['share_that_reached_it']:.0%}", worse, *regrets))
    header = ("strategy", "evaluations to top 1 %", "reached", "worse than random", *(f"regret at {c}" for c in counts))
    print(text_table(header, rows), flush=True)


if __name__ == "__main__":
    main()
