"""The figures of the comparison: differences by data set and pooled, coverage, memory and time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.quality.bootstrap import Comparison, Difference, Models, metrics
from benchmarks.quality.cells import FRESH, Cell
from benchmarks.quality.finished import ANSWER, FinishedCell
from benchmarks.quality.predictions import Counts
from benchmarks.quality.roles import ENSEMBLE, SINGLE
from nas.run.roles import LINEAR
from nas.run.tables import text_table

PAIRS: Mapping[str, tuple[str, str]] = {
    "ensemble_over_default_fixed": (ENSEMBLE, "default_fixed_ensemble"),
    "ensemble_over_default_tuned": (ENSEMBLE, "default_tuned_ensemble"),
    "single_over_default_fixed": (SINGLE, "default_fixed_single"),
    "single_over_default_tuned": (SINGLE, "default_tuned_single"),
    "answer_over_linear": (ANSWER, LINEAR),
    "answer_over_random": (ANSWER, "random_answer"),
}
"""The differences by their names: the models on both sides. Answers of one kind are compared: an ensemble with an
ensemble of equal cost, a single model with a single one."""
SIMPLE = (LINEAR, "default_tuned_single", "default_tuned_ensemble")
"""The simple answers, the better of which a search should reach."""


@dataclass
class Evidence:
    """What the finished cells of a task have given.

    Args:
        models: The counts of the models of every side of a difference.
        facts: The facts of every finished cell, by role and seed.
        fresh: The counts of the answers of searches with fresh seeds, by the seed of the search.
    """

    models: dict[str, dict[int, Counts]] = field(default_factory=dict)
    facts: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    fresh: dict[int, list[Counts]] = field(default_factory=dict)


def gather(cells: Mapping[Cell, FinishedCell]) -> Evidence:
    """Return what the finished cells of a task have given.

    Args:
        cells: The finished cells of the task.
    """
    found = Evidence()
    for cell, finished in cells.items():
        found.facts[cell.role, cell.seed] = dict(finished.facts)
        if cell.role == FRESH:
            found.fresh[cell.seed] = list(finished.counts.values())
            continue
        for name, counts in finished.counts.items():
            found.models.setdefault(name, {})[cell.seed] = counts
    return found


def compare(evidence: Mapping[str, Evidence], missing: Sequence[Cell], skipped: Mapping[str, str]) -> dict[str, Any]:
    """Return all figures.

    Args:
        evidence: What is known of each task.
        missing: The cells that are not finished; figures that need them are marked.
        skipped: The tasks without data, and why; all pooled figures are marked then.
    """
    by_task: dict[str, Any] = {}
    differences: dict[str, list[Difference]] = {name: [] for name in PAIRS}
    incomplete: list[str] = []
    for place, (name, known) in enumerate(evidence.items()):
        by_task[name], found = _of_task(known, place)
        for key, pair in PAIRS.items():
            if key in found:
                differences[key].append(found[key])
            if any(cell.task == name and cell.role in _roles_of(pair) for cell in missing):
                incomplete.append(f"{name}.{key}")
    pooled = {key: Difference.pooled(found).interval() for key, found in differences.items() if found}
    marked = [key for key in PAIRS if skipped or any(entry.endswith(f".{key}") for entry in incomplete)]
    incomplete += [f"pooled.{key}" for key in marked]
    facts = [entry for known in evidence.values() for (role, _), entry in known.facts.items() if role != FRESH]
    return {
        "pooled": pooled,
        "data_sets": by_task,
        "coverage": _coverage(evidence),
        "peaks_within_budget": all(entry["peak_bytes"] <= entry["memory_bytes"] for entry in facts),
        "longest_seconds": max((entry["wall_seconds"] for entry in facts), default=0.0),
        "missing": [str(cell) for cell in missing],
        "skipped": dict(skipped),
        "incomplete": incomplete,
    }


def _roles_of(pair: tuple[str, str]) -> list[str]:
    """Return the roles of the cells from which both sides of a difference come."""
    prefixes = ("default_fixed", "default_tuned", "random")
    return [next((role for role in prefixes if side.startswith(role)), "search") for side in pair]


def _of_task(known: Evidence, place: int) -> tuple[dict[str, Any], dict[str, Difference]]:
    """Return the figures of a task, and its differences by their names."""
    if not known.models:
        return {}, {}
    pictures = next(iter(next(iter(known.models.values())).values())).shape[1]
    comparison = Comparison(place, pictures)

    def over(first: str, second: str) -> Difference | None:
        models = known.models
        return comparison.difference(models[first], models[second]) if first in models and second in models else None

    found = {name: difference for name, pair in PAIRS.items() if (difference := over(*pair)) is not None}
    figures: dict[str, Any] = {name: difference.interval() for name, difference in found.items()}
    simple = {name: _mean(known.models[name]) for name in SIMPLE if name in known.models}
    if ANSWER in known.models and simple:
        better = max(simple, key=lambda name: simple[name])
        difference = comparison.difference(known.models[ANSWER], known.models[better])
        figures["answer_over_better_simple"] = difference.interval() | {"better": better}
    figures["pictures"] = pictures
    figures["means"] = {name: _mean(models) for name, models in known.models.items()}
    figures["by_seed"] = {name: metrics(models).tolist() for name, models in known.models.items()}
    figures["cells"] = {f"{role} {seed}": facts for (role, seed), facts in known.facts.items()}
    return figures, found


def _mean(models: Models) -> float:
    return float(metrics(models).mean())


def _coverage(evidence: Mapping[str, Evidence]) -> dict[str, Any]:
    """Return how many searches have the mean of fresh seeds of their answer in its 90 % interval.

    A linear classifier has no seeds, and stands for itself.
    """
    rows = []
    for name, known in evidence.items():
        for (role, seed), facts in known.facts.items():
            expected = facts.get("expected")
            is_linear = facts.get("single_answer") == LINEAR
            models = [known.models[LINEAR][seed]] if role == "search" and is_linear else known.fresh.get(seed, [])
            if role != "search" or expected is None or expected["low"] is None or not models:
                continue
            truth = float(np.mean([_mean({0: counts}) for counts in models]))
            covered = expected["low"] <= truth <= expected["high"]
            rows.append({"search": f"{name} {seed}", "expected": expected, "truth": truth, "is_covered": covered})
    return {"covered": sum(row["is_covered"] for row in rows), "searches": len(rows), "each": rows}


def with_peers(figures: Mapping[str, Any], peers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures with those of the comparison with other systems among them.

    Args:
        figures: The figures of `compare`.
        peers: The figures of `benchmarks.peers.time_to_tune`.
    """
    by_task, others = figures["data_sets"], peers["data_sets"]
    return {
        **figures,
        "pooled": figures["pooled"] | peers["pooled"],
        "data_sets": {name: by_task.get(name, {}) | others.get(name, {}) for name in {**by_task, **others}},
        "missing": [*figures["missing"], *peers["missing"]],
        "incomplete": [*figures["incomplete"], *peers["incomplete"]],
    }


def show(figures: Mapping[str, Any]) -> None:
    """Print the figures."""
    marked = set(figures["incomplete"])
    header = ("", *PAIRS)
    rows = []
    for name, entries in (("pooled", figures["pooled"]), *figures["data_sets"].items()):
        shown = [_text(entries.get(key), is_incomplete=f"{name}.{key}" in marked) for key in PAIRS]
        rows.append((name, *shown))
    print(text_table(header, rows))
    for name, entries in figures["data_sets"].items():
        means = ", ".join(f"{model} {value:.3f}" for model, value in entries.get("means", {}).items())
        print(f"{name}: {means or 'no cell is finished'}")
        if "answer_over_better_simple" in entries:
            entry = entries["answer_over_better_simple"]
            interval = _text(entry, is_incomplete=False)
            print(f"  answer minus the better simple answer, {entry['better']}: {interval}")
    coverage = figures["coverage"]
    print(f"90 % intervals that hold the mean of fresh seeds: {coverage['covered']} of {coverage['searches']}")
    print(f"peak memory within the budget: {'yes' if figures['peaks_within_budget'] else 'no'}")
    print(f"longest cell: {figures['longest_seconds']:.0f} s")
    if figures["missing"]:
        print(f"incomplete (*): {len(figures['missing'])} cells are missing: {', '.join(figures['missing'])}")
    for name, reason in figures["skipped"].items():
        print(f"{name}: skipped: {reason}")


def _text(entry: Mapping[str, float] | None, *, is_incomplete: bool) -> str:
    mark = "*" if is_incomplete else ""
    if entry is None:
        return mark
    return f"{entry['mean']:+.3f} ({entry['low']:+.3f} to {entry['high']:+.3f}){mark}"
