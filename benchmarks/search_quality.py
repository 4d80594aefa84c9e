"""Is the answer of a search better than PMF's default, and than that of random search in the same time?

The whole search on the demo, with a fixed budget and five seeds, once with the default strategy and once at random;
both train the default as well. Their exported models are then asked for every item of one split, from raw images and
texts.

- gain_over_default: the answers' accuracy less the default's, both trained with the search's seed, on average.
- gain_over_random: less that of random search's answers.
- regret: how much better the best architecture of the table is than the answers are on average, on validation. Both are
  what the surrogate fitted to all trainings of the table says, which knows every architecture of the space; the highest
  of the table's 160 means of two seeds is high by luck as well. The regret to that one (`regret_to_highest_mean`), and
  the table's noise between seeds, stand beside it.

Intervals are 95 % of the paired bootstrap: items and seeds are drawn anew, and both models of a pair are asked for the
same items.

No search is given the test split: validation stands in its place. `--split` says on which items the exported models are
then compared: validation, for development, where figures are too high, since answers were chosen there; test, for the
end, once. Searches that are there already are not run again.

Run: python -m benchmarks.search_quality [--split validation|test] [--budget 4m] [--seeds 0 1 2 3 4] [--runs DIR]
     [--table FILE] [--json FILE] [--quick]
"""

import argparse
import csv
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from benchmarks.models import DEMO, few_samples
from benchmarks.pmf_bench.landscapes import METRIC, Surrogate
from benchmarks.pmf_bench.table import TABLE, read_table
from nas.budget import parse_budget
from nas.conclusion import EVIDENCE
from nas.config import Config, config_as_dict, load_config
from nas.data import open_images_of, read_data
from nas.export import logits_of_samples, open_exported
from nas.progress import build_reporter
from nas.report import table
from nas.runs import CONFIG, Machine, Overrides, resume, start
from nas.space import Architecture

_RESAMPLED = 5000

Correct = NDArray[np.float64]
"""1 where a model is right, (seeds, items)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--budget", default="4m")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--runs", type=Path, default=Path("runs") / "search_quality", help="where the runs lie")
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="one seed, 4 architectures: shows that the script works")
    options = parser.parse_args()
    seeds, budget = ([0], "4") if options.quick else (options.seeds, options.budget)
    directory = options.runs / budget
    source = search_file(directory, is_quick=options.quick)
    config = load_config(source)
    own = config.search.strategy
    found: dict[str, list[Path]] = {own: [], "random": []}
    for seed in seeds:
        for strategy, runs in found.items():
            runs.append(directory / f"{strategy}-{seed}")
            search(source, runs[-1], strategy, seed, budget, Machine(worker_count=0 if options.quick else None))
    asked = load_config(DEMO) if options.split == "test" else config
    figures = compared(asked, options.split, options.table, found[own], found["random"])
    figures |= {"split": options.split, "budget": budget, "seeds": seeds, "strategy": own}
    show(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


def search_file(directory: Path, *, is_quick: bool) -> Path:
    """The demo's search file, with validation in the place of the test split.

    Answers are not trained with more seeds: that comes after the search, and is no part of the answer.
    """
    directory.mkdir(parents=True, exist_ok=True)
    config = few_samples(directory) if is_quick else load_config(DEMO)
    config = replace(config, search=replace(config.search, confirmation_seeds=0))
    if is_quick:
        config = replace(
            config,
            recipe=replace(config.recipe, epochs=1),
            supernet=replace(config.supernet, steps=2),
            search=replace(config.search, finalists=1, round_size=4),
        )
    source = directory / "search.yaml"
    manifest = str(without_test(config, directory).resolve())
    config = replace(config, data=replace(config.data, manifest=manifest, allow_duplicates=True))
    content = yaml.safe_dump(config_as_dict(config), sort_keys=False)
    if source.exists() and source.read_text() != content:
        raise SystemExit(f"{directory}: its searches were made with another search file; delete them, or give --runs")
    source.write_text(content)
    return source


def without_test(config: Config, directory: Path) -> Path:
    """A manifest in which validation stands for test as well."""
    manifest, column = directory / "manifest.csv", config.data.columns.split
    with Path(config.data.location).open(newline="") as file:
        rows = list(csv.DictReader(file))
    kept = [row for row in rows if row[column] != "test"]
    kept += [row | {column: "test"} for row in rows if row[column] == "validation"]
    with manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(kept)
    return manifest


def search(source: Path, directory: Path, strategy: str, seed: int, budget: str, machine: Machine) -> None:
    """Search, or finish the search that is there."""
    if (directory / EVIDENCE).exists():  # written last
        return
    seconds, trials = parse_budget(budget)
    overrides = Overrides(time_seconds=seconds, trials=trials, seed=seed, strategy=strategy)
    with build_reporter() as reporter:
        reporter.note(f"{strategy}, seed {seed}")
        if (directory / CONFIG).exists():
            resume(directory, replace(overrides, seed=None, strategy=None), machine, reporter)
        else:
            start(source, directory, overrides, machine, reporter)
    if not (directory / EVIDENCE).exists():
        raise SystemExit(f"{directory}: no finalist was finished within {budget}; give a larger --budget")


def compared(config: Config, split: str, path: Path, searched: list[Path], random: list[Path]) -> dict[str, Any]:
    """Figures of finished runs."""
    best, default, chance = (
        right(config, split, [run / role for run in runs])
        for runs, role in ((searched, "best"), (searched, "default"), (random, "best"))
    )
    reports = [json.loads((run / "report.json").read_text())["best"] for run in searched]
    answers = [Architecture.from_dict(report["architecture"]) for report in reports]
    known = read_table(path)
    means = known.means(METRIC)
    surrogate = Surrogate(known)
    come_to = surrogate.means(answers)
    return {
        "accuracy": best.mean(axis=1).tolist(),
        "accuracy_of_default": default.mean(axis=1).tolist(),
        "accuracy_of_random": chance.mean(axis=1).tolist(),
        "gain_over_default": gain(best, default),
        "gain_over_random": gain(best, chance),
        "regret": float(surrogate.means(list(means)).max() - come_to.mean()),
        "regret_to_highest_mean": float(max(means.values()) - come_to.mean()),
        "seed_deviation": known.seed_deviation(METRIC),
        "architectures": [str(answer) for answer in answers],
        "in_table": [answer in means for answer in answers],
        "peaks_within_budget": all(report["measured_peak_bytes"] <= config.budget.memory_bytes for report in reports),
        "largest_peak_bytes": max(report["measured_peak_bytes"] for report in reports),
    }


def right(config: Config, split: str, models: list[Path]) -> Correct:
    """Where each of some models is right."""
    rows = []
    for model in models:
        exported = open_exported(model)
        samples = read_data(config.data, (split,), class_names=exported.class_names).splits[split]
        logits = logits_of_samples(exported, samples, open_images_of(config.data))
        rows.append((logits.argmax(dim=1) == torch.from_numpy(samples.labels)).numpy().astype(np.float64))
    return np.stack(rows)


def gain(first: Correct, second: Correct) -> dict[str, float]:
    """Difference of two accuracies, and its interval by the paired bootstrap over items and seeds."""
    difference = first - second
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(_RESAMPLED):
        seeds = rng.integers(len(difference), size=len(difference))
        items = rng.integers(difference.shape[1], size=difference.shape[1])
        drawn.append(difference[np.ix_(seeds, items)].mean())
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"mean": float(difference.mean()), "low": float(low), "high": float(high)}


def show(figures: dict[str, Any]) -> None:
    rows = [
        (name, " ".join(f"{value:.4f}" for value in figures[key]), f"{statistics.fmean(figures[key]):.4f}")
        for name, key in (
            (figures["strategy"], "accuracy"),
            ("random search", "accuracy_of_random"),
            ("PMF default", "accuracy_of_default"),
        )
    ]
    print(table(("", f"{figures['split']} accuracy by seed", "mean"), rows))
    for key in ("gain_over_default", "gain_over_random"):
        entry = figures[key]
        print(f"{key}: {entry['mean']:+.4f}, 95 % interval {entry['low']:+.4f} to {entry['high']:+.4f}")
    print(f"regret to the highest mean: {figures['regret_to_highest_mean']:.4f}")
    print(f"regret: {figures['regret']:.4f}; one training of the table ± {figures['seed_deviation']:.4f}")
    print(f"peak memory within the budget: {'yes' if figures['peaks_within_budget'] else 'no'}")


if __name__ == "__main__":
    main()
