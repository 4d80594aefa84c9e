"""Compare the best architecture of a search with PMF's default and with random search within the same time.

Runs whole searches of the demo with a fixed budget and five seeds, once with the default strategy and once at random;
both train the default as well. A single training is a noisy measurement, so the best architecture of each search and
the default are trained with further seeds, `--trainings` in total. All exported models, of the searches and of the
further trainings, then classify every item of one split, from raw images and texts.

- gain_over_default: accuracy of the searches' best architectures minus the default's, averaged over searches and
  trainings.
- gain_over_random: the same minus the accuracy of random search.
- of_exported: both gains for the models that the searches exported.
- regret: the validation accuracy of the best architecture of the table minus the mean of the searches' best, both as
  predicted by the surrogate, which is fitted to all trainings of the table and covers the whole space. The highest of
  the table's 160 means of two seeds is partly luck; the regret to it (`regret_to_highest_mean`) and the table's noise
  between seeds are reported as well.
- table_best: how much of an advantage on validation remains on test: the best tenth of the table on validation by one
  seed, and its means on validation and on test by the other seed.

Intervals are 95 % paired bootstrap intervals: searches, each with all of its trainings, and items are resampled, and
both models of a pair are compared on the same items. Trainings within a search are not resampled: their noise is part
of the differences between searches (Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8).

No search has access to the test split: validation takes its place. `--split` selects the items on which the exported
models are compared: validation for development, where the accuracy of the searches' own models is too high, because
they were chosen there; test once, at the end. Existing searches, trainings and predictions are reused.

Run: python -m benchmarks.search_quality [--split validation|test] [--budget 6m] [--seeds 0 1 2 3 4] [--trainings 4]
     [--runs DIR] [--table FILE] [--json FILE] [--quick]
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

from benchmarks.mapping import mapped
from benchmarks.models import DEMO, few_samples
from benchmarks.pmf_bench.landscapes import METRIC, Surrogate
from benchmarks.pmf_bench.table import TABLE, Table, read_table
from nas.common.files import default_cache_directory, replace_atomically
from nas.common.progress import build_reporter
from nas.config.load import load_config
from nas.config.overrides import Overrides
from nas.config.schema import Config
from nas.data.dataset import open_dataset_images, read_dataset
from nas.execution.worker import CandidateWorker
from nas.execution.worker_setup import WorkerSetup
from nas.models.model_seals import DESCRIPTION
from nas.run.arguments import parse_budget
from nas.run.directory import CONFIG
from nas.run.evaluate import logits_of_samples
from nas.run.executors import ExecutionOptions, write_worker_setup
from nas.run.export import TrainedWeights, export_result
from nas.run.exported_model import open_exported
from nas.run.finalize import RELIABILITY
from nas.run.model_parts import ModelParts
from nas.run.prepare import prepare
from nas.run.search import resume, start
from nas.run.tables import text_table
from nas.search.keys import CandidateKey
from nas.search.space import Architecture
from nas.search.trial import Job, Result, architecture_seed
from nas.training.trainer import full_step_count

_RESAMPLED = 5000

Correct = NDArray[np.float64]
"""1 where a model is correct, else 0, (searches, trainings, items)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--budget", default="6m")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument(
        "--trainings", type=int, default=4, help="trainings of each architecture, including the search's own"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs") / "search_quality", help="folder of the runs")
    parser.add_argument("--table", type=Path, default=TABLE, help="table of trainings (default: the committed one)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the figures")
    parser.add_argument("--quick", action="store_true", help="trial run: one seed, 4 architectures")
    options = parser.parse_args()
    seeds, budget, trainings = ([0], "4", 2) if options.quick else (options.seeds, options.budget, options.trainings)
    directory = options.runs / budget
    source = search_file(directory, is_quick=options.quick)
    config = load_config(source)
    own = config.search.strategy
    found: dict[str, list[Path]] = {own: [], "random": []}
    for seed in seeds:
        for strategy, runs in found.items():
            runs.append(directory / f"{strategy}-{seed}")
            search(
                source, runs[-1], strategy, seed, budget, ExecutionOptions(worker_count=0 if options.quick else None)
            )
    models = {
        "answer": [[run / "best"] for run in found[own]],
        "random": [[run / "best"] for run in found["random"]],
        "default": [[run / "default"] for run in found[own]],
    }
    train_further(config, directory / "further", seeds, models, trainings, is_quick=options.quick)
    evaluated = load_config(DEMO) if options.split == "test" else config
    figures = compared(evaluated, options.split, options.table, found[own], models, is_quick=options.quick)
    figures |= {"split": options.split, "budget": budget, "seeds": seeds, "trainings": trainings, "strategy": own}
    show(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


def search_file(directory: Path, *, is_quick: bool) -> Path:
    """Write the demo's search file with validation in place of the test split, and return its path.

    Reruns are disabled: they come after the search and do not influence its result.
    """
    directory.mkdir(parents=True, exist_ok=True)
    config = few_samples(directory) if is_quick else load_config(DEMO)
    config = config.replace(search=config.search.replace(rerun_seeds=0))
    if is_quick:
        config = config.replace(
            recipe=config.recipe.replace(epochs=1),
            supernet=config.supernet.replace(steps=2),
            search=config.search.replace(finalists=1, round_size=4),
        )
    source = directory / "search.yaml"
    manifest = str(without_test(config, directory).resolve())
    config = config.replace(data=config.data.replace(manifest=manifest, allow_duplicates=True))
    content = yaml.safe_dump(config.as_dict(), sort_keys=False)
    if source.exists() and source.read_text() != content:
        raise SystemExit(
            f"{source}: is of other searches; expected the same settings; delete the folder or give another --runs"
        )
    source.write_text(content)
    return source


def without_test(config: Config, directory: Path) -> Path:
    """Write a manifest in which the test split is a copy of validation, and return its path."""
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


def search(source: Path, directory: Path, strategy: str, seed: int, budget: str, machine: ExecutionOptions) -> None:
    """Run a search, or resume an unfinished one."""
    if (directory / RELIABILITY).exists():  # written last
        return
    seconds, trials = parse_budget(budget)
    overrides = Overrides(time_seconds=seconds, trials=trials, seed=seed, strategy=strategy)
    with build_reporter() as reporter:
        reporter.note(f"{strategy}, seed {seed}")
        if (directory / CONFIG).exists():
            resume(directory, replace(overrides, seed=None, strategy=None), machine, reporter)
        else:
            start(source, directory, overrides, machine, reporter)
    if not (directory / RELIABILITY).exists():
        raise SystemExit(
            f"{directory}: no finalist finished within the budget; expected more than {budget}; use a larger --budget"
        )


def train_further(
    config: Config,
    directory: Path,
    seeds: list[int],
    models: dict[str, list[list[Path]]],
    trainings: int,
    *,
    is_quick: bool,
) -> None:
    """Train the exported architectures with further seeds, and append the exported models to `models`.

    Args:
        config: The configuration of the searches.
        directory: The folder of these trainings.
        seeds: The seeds of the searches.
        models: The exported models by role and search; extended in place.
        trainings: The total number of trainings of each architecture.
        is_quick: Whether to train in this process.
    """
    numbers = range(1, trainings)
    wanted: dict[Path, tuple[Architecture, int]] = {}
    for of_role in models.values():
        for seed, of_search in zip(seeds, of_role, strict=True):
            architecture = architecture_of(of_search[0])
            for number in numbers:
                place = directory / f"{str(architecture).replace(' ', '_')}_seed{seed}_{number}"
                stage = f"full, repetition {number}"  # as `search.rerun_seeds` has it
                wanted[place] = architecture, architecture_seed(seed, stage, architecture)
                of_search.append(place)
    missing = {place: entry for place, entry in wanted.items() if not (place / DESCRIPTION).exists()}
    if not missing:
        return
    directory.mkdir(exist_ok=True)
    with build_reporter() as reporter:
        prepared = prepare(config, source=str(DEMO), cache_directory=default_cache_directory(), reporter=reporter)
        setup = write_worker_setup(config, prepared, directory, thread_count=1)
        steps = full_step_count(config.recipe, len(prepared.store.splits["train"]))
        jobs = [
            Job(CandidateKey(trial), architecture, "full", steps, seed, 0)
            for trial, (architecture, seed) in enumerate(missing.values())
        ]
        trained = mapped(train_one, [(setup, job) for job in jobs], is_quick=is_quick)
        for place, result in zip(missing, trained, strict=True):
            weights, objective = setup.weights_path(result.key), config.search.objective
            parts = ModelParts.of(prepared)
            export_result(place, TrainedWeights(weights, result), parts=parts, objective=objective, data=config.data)
            weights.unlink()
            reporter.note(f"{place.name}: validation {objective} {result.score:.4f}")


def train_one(work: tuple[WorkerSetup, Job]) -> Result:
    """Train one architecture completely."""
    setup, job = work
    (result,) = CandidateWorker(setup).run(job, limit_bytes=None)
    return result


def architecture_of(model: Path) -> Architecture:
    """Return the architecture of an exported model."""
    described = yaml.safe_load((model / DESCRIPTION).read_text())
    return Architecture.from_dict(described["architecture"])


def compared(
    config: Config, split: str, path: Path, searched: list[Path], models: dict[str, list[list[Path]]], *, is_quick: bool
) -> dict[str, Any]:
    """Return the figures of finished runs."""
    roles = ("answer", "random", "default")
    evaluations = [(config, split, model) for role in roles for of_search in models[role] for model in of_search]
    answers = np.array(list(mapped(correct, evaluations, is_quick=is_quick)))
    best, random_best, default = answers.reshape(len(roles), len(searched), -1, answers.shape[-1])
    reports = [json.loads((run / "report.json").read_text())["best"] for run in searched]
    found = [Architecture.from_dict(report["architecture"]) for report in reports]
    known = read_table(path)
    means = known.means(METRIC)
    surrogate = Surrogate(known)
    predicted = surrogate.means(found)
    return {
        "accuracy": best.mean(axis=(1, 2)).tolist(),
        "accuracy_of_default": default.mean(axis=(1, 2)).tolist(),
        "accuracy_of_random": random_best.mean(axis=(1, 2)).tolist(),
        "gain_over_default": gain(best, default),
        "gain_over_random": gain(best, random_best),
        "of_exported": {
            "gain_over_default": gain(best[:, :1], default[:, :1]),
            "gain_over_random": gain(best[:, :1], random_best[:, :1]),
        },
        "regret": float(surrogate.means(list(means)).max() - predicted.mean()),
        "regret_to_highest_mean": float(max(means.values()) - predicted.mean()),
        "seed_deviation": known.seed_deviation(METRIC),
        "architectures": [str(architecture) for architecture in found],
        "in_table": [architecture in means for architecture in found],
        "table_best": best_of_table(known),
        "peaks_within_budget": all(report["measured_peak_bytes"] <= config.budget.memory_bytes for report in reports),
        "largest_peak_bytes": max(report["measured_peak_bytes"] for report in reports),
    }


def best_of_table(known: Table) -> dict[str, float]:
    """Return the means of the tenth that is best on validation by one seed, measured by the other seed.

    The average over both choices of the seed, by split.
    """
    found: dict[str, list[float]] = {"validation": [], "test": []}
    for chosen_by, seed in ((0, 1), (1, 0)):
        order = known.means(METRIC, (chosen_by,))
        best = sorted(order, key=lambda architecture: -order[architecture])[: len(order) // 10]
        for split, values in found.items():
            means = known.means(METRIC, (seed,), split)
            values += [means[architecture] for architecture in best]
    return {split: statistics.fmean(values) for split, values in found.items()}


def correct(work: tuple[Config, str, Path]) -> NDArray[np.float64]:
    """Return where a model is correct, (items,); reuse a file next to the model unless it is older than the model."""
    config, split, model = work
    kept = model.with_name(f"{model.name}-{split}.npy")
    if not kept.exists() or kept.stat().st_mtime_ns < (model / DESCRIPTION).stat().st_mtime_ns:
        exported = open_exported(model)
        samples = read_dataset(config.data, (split,), class_names=exported.class_names).splits[split]
        logits = logits_of_samples(exported, samples, open_dataset_images(config.data))
        with replace_atomically(kept) as path, path.open("wb") as file:
            np.save(file, (logits.argmax(dim=1) == torch.from_numpy(samples.labels)).numpy())
    found: NDArray[np.float64] = np.load(kept).astype(np.float64)
    return found


def gain(first: Correct, second: Correct) -> dict[str, float]:
    """Return the difference of two accuracies with its paired bootstrap interval over searches and items."""
    differences = first.mean(axis=1) - second.mean(axis=1)
    searches, items = differences.shape
    rng = np.random.default_rng(0)
    means = [
        differences[rng.integers(searches, size=searches)][:, rng.integers(items, size=items)].mean()
        for _ in range(_RESAMPLED)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    return {"mean": float(differences.mean()), "low": float(low), "high": float(high)}


def show(figures: dict[str, Any]) -> None:
    """Print the figures."""
    rows = [
        (name, " ".join(f"{value:.4f}" for value in figures[key]), f"{statistics.fmean(figures[key]):.4f}")
        for name, key in (
            (figures["strategy"], "accuracy"),
            ("random search", "accuracy_of_random"),
            ("PMF default", "accuracy_of_default"),
        )
    ]
    print(text_table(("", f"{figures['split']} accuracy by seed", "mean"), rows))
    for key in ("gain_over_default", "gain_over_random"):
        for models, entry in (("", figures[key]), (" of the exported models", figures["of_exported"][key])):
            print(f"{key}{models}: {entry['mean']:+.4f}, 95 % interval {entry['low']:+.4f} to {entry['high']:+.4f}")
    print("best tenth of the table: " + ", ".join(f"{key} {value:.4f}" for key, value in figures["table_best"].items()))
    print(f"regret to the highest mean: {figures['regret_to_highest_mean']:.4f}")
    print(f"regret: {figures['regret']:.4f}; one training of the table ± {figures['seed_deviation']:.4f}")
    print(f"peak memory within the budget: {'yes' if figures['peaks_within_budget'] else 'no'}")


if __name__ == "__main__":
    main()
