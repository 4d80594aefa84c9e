"""Compare a model distilled from an ensemble with the same model trained on labels, over several seeds.

The trainings of one architecture with each seed, and one with other readouts, are the pool from which an ensemble is
chosen on validation. The architecture is PMF's default with the means of the tokens as readouts and fusion in the last
layer, which is quick to train. It is then trained on the ensemble's probabilities for the training samples and on the
labels, with the same seeds. With `--all`, other temperatures and weights are tried, and both for twice the steps.
Everything is measured on validation. Finished trainings are kept in the folder of `--runs` and not repeated.

Run: python -m benchmarks.distillation [--data DIR] [--task NAME ...] [--seeds 3] [--runs DIR] [--json FILE] [--quick]
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.classifier_start import search_files, with_start
from benchmarks.models import add_precision, few_samples, in_precision, write_figures
from benchmarks.recipe_stability import QUICK_STEPS
from benchmarks.suite.tasks import TASKS
from nas.common.files import default_cache_directory
from nas.common.progress import Reporter, build_reporter
from nas.common.seeds import seed_from
from nas.config.load import load_config
from nas.config.schema import Config
from nas.models.fusion.base import sizes_of
from nas.models.fusion.ensemble import mean_logits
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.models.fusion.readouts import READOUTS
from nas.models.fusion.supernet import build_model
from nas.run.choose_ensemble import score_function
from nas.run.prepare import SearchContext, prepare
from nas.run.tables import text_table
from nas.search.distillation import TEMPERATURE, WEIGHT
from nas.search.ensemble import EnsembleLimits, select_members
from nas.search.space import Architecture
from nas.training.evaluate import predict_logits
from nas.training.linear_start import start_classifiers
from nas.training.metrics import evaluate_logits
from nas.training.soft_targets import SoftTargets
from nas.training.trainer import Steps, full_step_count, train_steps

OTHER_SETTINGS = ((1.0, 0.5), (2.0, 0.9), (4.0, 0.9))
"""Temperatures and weights of the soft targets besides those of a search."""


@dataclass(frozen=True)
class Predicted:
    """The logits of a model on training and validation, (N, C) each."""

    train: Tensor
    validation: Tensor


class TaskTrainings:
    """The trainings of one task.

    Args:
        config: The configuration.
        prepared: The encoders and features.
        runs: The folder of finished trainings.
    """

    def __init__(self, config: Config, prepared: SearchContext, runs: Path) -> None:
        self._config = config
        self._prepared = prepared
        self._splits = prepared.store.splits
        self._runs = runs
        self.figures: dict[str, dict[str, dict[str, float]]] = {}
        """The metrics of all trainings, by name and seed."""
        self.labels = torch.from_numpy(self._splits["validation"].labels)

    def train(
        self, name: str, architecture: Architecture, seed: int, steps: int, targets: SoftTargets | None = None
    ) -> Predicted:
        """Train a model completely, unless that has been done, and return its logits; keep its metrics."""
        path = self._runs / f"{self._config.name}-{name}-{seed}.pt".replace(" ", "_")
        if path.exists():
            found = Predicted(*torch.load(path))
        else:
            found = self._trained(architecture, Steps(steps, seed), targets)
            torch.save((found.train, found.validation), path)
        self.figures.setdefault(name, {})[str(seed)] = self.metrics(found.validation)
        print(f"{self._config.name}: {name}, seed {seed}: {self.figures[name][str(seed)]}", flush=True)
        return found

    def _trained(self, architecture: Architecture, steps: Steps, targets: SoftTargets | None) -> Predicted:
        recipe, split = self._config.recipe, self._splits["train"]
        model = build_model(
            image_encoder=self._prepared.image_encoder,
            text_encoder=self._prepared.text_encoder,
            architecture=architecture,
            num_classes=len(self._prepared.store.class_names),
            seed=seed_from(steps.seed, "weights"),
        )
        start_classifiers(model, split, recipe, batch_size=recipe.batch_size)
        train_steps(model=model, split=split, recipe=recipe, steps=steps, soft_targets=targets)
        size, precision = recipe.batch_size, recipe.precision
        return Predicted(
            *(predict_logits(model, self._splits[name], batch_size=size, precision=precision) for name in _SPLITS)
        )

    def metrics(self, logits: Tensor) -> dict[str, float]:
        """Return the metric of the task, and the cross-entropy of validation logits."""
        metrics = evaluate_logits(logits, self.labels)
        return {name: metrics[name] for name in (self._config.search.objective, "cross_entropy")}

    def ensemble(self, pool: Sequence[Predicted]) -> tuple[Predicted, list[float]]:
        """Choose an ensemble on validation as a search does; return its logits and the weight of each model."""
        several = self.labels.ndim == 2
        stacked = torch.stack([model.validation for model in pool]).double()
        probabilities = (stacked.sigmoid() if several else stacked.softmax(dim=2)).numpy()
        score = score_function(self._config.search.objective, self.labels)
        limits = EnsembleLimits(self._config.search.members)
        weights = select_members(probabilities, np.arange(len(self.labels)), score, limits)
        means = (
            mean_logits(
                [getattr(pool[index], name) for index in weights], list(weights.values()), has_several_labels=several
            )
            for name in _SPLITS
        )
        return Predicted(*means), [weights.get(index, 0.0) for index in range(len(pool))]


_SPLITS = ("train", "validation")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of `benchmarks.suite.make`; without: the demo")
    parser.add_argument("--task", nargs="+", choices=TASKS, help="the tasks (default: all in DIR)")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: 3)")
    parser.add_argument("--runs", type=Path, metavar="DIR", help="folder of finished trainings, from which it resumes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the figures")
    parser.add_argument("--all", action="store_true", help="also other temperatures and weights, and twice the steps")
    add_precision(parser)
    parser.add_argument("--quick", action="store_true", help="trial run: 2 seeds and a few steps of the demo")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    with build_reporter() as reporter, tempfile.TemporaryDirectory() as directory:
        runs = options.runs or Path(directory)
        runs.mkdir(parents=True, exist_ok=True)
        for name, source in search_files(options).items():
            figures[name] = measure(source, runs, options, reporter)
            write_figures(options.json, figures)
    print(text_table(("task", "model", "metric", "difference", "cross-entropy"), list(rows(figures))))


def measure(source: Path, runs: Path, options: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Train the ensemble and all students of a task, and return the figures."""
    with tempfile.TemporaryDirectory() as directory:
        config = few_samples(Path(directory)) if options.quick else load_config(source)
        config = in_precision(with_start(config, "linear"), options.precision)
        prepared = prepare(config, source=str(source), cache_directory=default_cache_directory(), reporter=reporter)
        trainings = TaskTrainings(config, prepared, runs)
        steps = QUICK_STEPS if options.quick else full_step_count(config.recipe, len(prepared.store.splits["train"]))
        student, other = architectures(prepared)
        seeds = range(2 if options.quick else options.seeds)
        pool = [trainings.train("labels", student, seed, steps) for seed in seeds]
        pool.append(trainings.train("other readouts", other, 0, steps))
        teacher, weights = trainings.ensemble(pool)
        settings = ((TEMPERATURE, WEIGHT), *(OTHER_SETTINGS if options.all else ()))
        for temperature, weight in settings:
            targets = SoftTargets.of(teacher.train, trainings.labels, temperature=temperature, weight=weight)
            for seed in seeds:
                trainings.train(f"distilled, T={temperature:g}, w={weight:g}", student, seed, steps, targets)
                if options.all and (temperature, weight) == settings[0]:
                    trainings.train("labels, twice the steps", student, seed, 2 * steps)
                    trainings.train("distilled, twice the steps", student, seed, 2 * steps, targets)
        on_train = evaluate_logits(teacher.train, torch.from_numpy(prepared.store.splits["train"].labels))
        return {
            "metric": config.search.objective,
            "architecture": str(student),
            "steps": steps,
            "weights": weights,
            "ensemble": trainings.metrics(teacher.validation),
            "ensemble_on_train": on_train[config.search.objective],
            "trainings": trainings.figures,
        }


def architectures(prepared: SearchContext) -> tuple[Architecture, Architecture]:
    """Return the student, and the same with the paper's readouts."""
    default, sizes = prepared.default, sizes_of(prepared.image_encoder, prepared.text_encoder)
    assert isinstance(default, PMFArchitecture)
    paper, mean = replace(default, fusion_layer=sizes.shallower - 1), READOUTS.index("mean")
    return replace(paper, image_readout=mean, text_readout=mean), paper


def rows(figures: dict[str, Any]) -> Iterable[tuple[str, ...]]:
    """Yield the rows of the table: means over seeds, and paired differences from the training on labels."""
    for name, task in figures.items():
        metric = task["metric"]
        yield name, "ensemble", f"{task['ensemble'][metric]:.4f}", "", f"{task['ensemble']['cross_entropy']:.4f}"
        labels = task["trainings"]["labels"]
        for student, by_seed in task["trainings"].items():
            pairs = [(values[metric], labels[seed][metric]) for seed, values in by_seed.items()]
            differences = [value - labels for value, labels in pairs]
            spread = f" ± {statistics.stdev(differences):.4f}" if len(differences) > 1 else ""
            yield (
                name,
                student,
                f"{statistics.mean(value for value, _ in pairs):.4f}",
                f"{statistics.mean(differences):+.4f}{spread}",
                f"{statistics.mean(values['cross_entropy'] for values in by_seed.values()):.4f}",
            )


if __name__ == "__main__":
    main()
