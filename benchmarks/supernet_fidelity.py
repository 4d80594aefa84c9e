"""Measure how well supernet scores rank architectures: Kendall's tau against the table, for each sampling.

Every supernet is trained on the same number of batches of one architecture each, with as many architectures in a step
as the demo has. `sandwich` always includes the largest and the smallest; on average its architectures fuse in as many
layers as those of the other samplings, so that the costs are equal, except for distillation, which runs the largest
once more for every other architecture.

Then all architectures of the table are scored on validation, by accuracy and by cross-entropy: with inherited weights,
and after the short training of the search. The reference is the mean accuracy over the table's seeds 0 and 1:

- kendall_tau: after short training, with the demo's own settings of supernet and score (`search.proxy_metric`); the
  mean over supernet seeds.
- kendall_tau_inherited: the same with inherited weights.
- kendall_tau_ceiling: the means over seeds 0 and 1 against those over seeds 2 and 3, for architectures with all four.
- within_fusion_layer: each of these among architectures of one L_f, which is harder, since most of the differences are
  between fusion layers.

A supernet takes about twenty minutes on one core. Supernets in the file of `--json` that were measured with the same
settings are not trained again.

Run: python -m benchmarks.supernet_fidelity [--sampling NAME ...] [--batches 1440] [--seeds 1] [--architectures 160]
     [--table FILE] [--json FILE] [--quick]
"""

import argparse
import hashlib
import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scipy.stats import kendalltau

from benchmarks.mapping import mapped
from benchmarks.models import (
    DEMO,
    add_precision,
    decisive_recipe,
    few_samples,
    in_precision,
    papers_space,
    plain_space,
    write_figures,
)
from benchmarks.pmf_bench.landscapes import METRIC
from benchmarks.pmf_bench.table import TABLE, Table, read_table
from nas.common.devices import AUTO
from nas.common.files import default_cache_directory
from nas.common.progress import build_reporter
from nas.config.load import load_config
from nas.config.schema import Config
from nas.execution.base import SupernetJob
from nas.execution.worker import CandidateWorker
from nas.execution.worker_setup import WorkerSetup
from nas.run.executors import write_worker_setup
from nas.run.prepare import prepare
from nas.run.tables import text_table
from nas.search.keys import CandidateKey
from nas.search.space import Architecture
from nas.search.trial import Job, Stage, job_seed
from nas.training.distributed import SingleProcessGroup

WAYS = {
    "uniform": ("uniform", 0.0),
    "balanced": ("balanced", 0.0),
    "sandwich": ("sandwich", 0.0),
    "distilled_sandwich": ("sandwich", 0.5),
}
"""Value of `--sampling` → sampling, and the weight of distillation in the loss."""

MEASURES = {"accuracy": 1.0, "cross_entropy": -1.0}
"""Metric of a score → the sign that makes higher better."""

Scores = dict[Architecture, float]

Scored = dict[Stage, dict[str, Scores]]
"""Stage → metric → scores."""


@dataclass(frozen=True)
class Variant:
    """One way to train the supernet.

    Args:
        sampling: The sampling of architectures.
        distillation: The weight of distillation in the loss.
        batches: The total number of batches of one architecture each.
        seed: The seed of the search.
    """

    sampling: str
    distillation: float
    batches: int
    seed: int

    @property
    def name(self) -> str:
        """The name in tables."""
        return self.sampling + (f", distillation {self.distillation:g}" if self.distillation else "")

    @property
    def place(self) -> tuple[str, int, int]:
        """The values that identify the variant in the figures."""
        return self.name, self.batches, self.seed

    def applied(self, config: Config) -> Config:
        """Return the configuration with this supernet."""
        supernet = config.supernet.replace(
            sampling=self.sampling,
            distillation=self.distillation,
            steps=self.batches // config.supernet.architectures_per_step,
        )
        return config.replace(supernet=supernet, seed=self.seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sampling", choices=WAYS, nargs="+", default=list(WAYS))
    parser.add_argument("--batches", type=int, nargs="+", help="batches of one architecture (default: as in the demo)")
    parser.add_argument("--seeds", type=int, default=1, help="number of supernets for each variant (default: 1)")
    parser.add_argument("--architectures", type=int, help="number of architectures from the table (default: all)")
    parser.add_argument("--table", type=Path, default=TABLE, help="table of trainings (default: the committed one)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the figures; resumes from it if it exists")
    add_precision(parser)
    parser.add_argument("--quick", action="store_true", help="trial run: 8 batches, 6 architectures")
    options = parser.parse_args()
    known = read_table(options.table)
    truth = known.means(METRIC)
    lengths, seeds, count = options.batches or [own_batches()], options.seeds, options.architectures or len(truth)
    if options.quick:
        lengths, seeds, count = [8], 1, 6
    everything = list(truth)
    chosen = [everything[place * len(everything) // count] for place in range(count)]
    variants = [
        Variant(*WAYS[way], batches, seed) for batches in lengths for way in options.sampling for seed in range(seeds)
    ]
    with build_reporter() as reporter, tempfile.TemporaryDirectory() as name:
        config = in_precision(few_samples(Path(name)) if options.quick else load_config(DEMO), options.precision)
        config = config.replace(space=papers_space(config.space))
        prepared = prepare(config, source=str(DEMO), cache_directory=default_cache_directory(), reporter=reporter)
        settings = settings_of(config, [(str(architecture), truth[architecture]) for architecture in chosen])
        measured = kept(options.json, settings)
        there = {place_of(entry) for entry in measured}
        variants = [variant for variant in variants if variant.place not in there]
        work = []
        for index, variant in enumerate(variants):
            directory = Path(name) / str(index)
            directory.mkdir()
            work.append((write_worker_setup(variant.applied(config), prepared, directory, thread_count=1), chosen))
        figures = summary(config, known, measured, count)
        for variant, scores in zip(variants, mapped(scored, work, is_quick=options.quick), strict=True):
            entry = compared(variant, scores, truth)
            measured.append(entry)
            taus = entry["scores"][score_name(config)]
            reporter.note(
                f"{variant.name}, {variant.batches} batches, seed {variant.seed}: tau "
                f"{taus['kendall_tau_inherited']:.3f} inherited, {taus['kendall_tau']:.3f} after short training"
            )
            figures = summary(config, known, measured, count)
            write_figures(options.json, {"settings": settings, **figures})
    show(figures)


def own_batches() -> int:
    """Return the number of batches that the demo's supernet is trained on."""
    supernet = load_config(DEMO).supernet
    return supernet.steps * supernet.architectures_per_step


def settings_of(config: Config, truth: Sequence[tuple[str, float]]) -> str:
    """Return a digest of everything besides the variant that the figures depend on."""
    values, search = config.as_dict(), config.search
    features: Any = {key: value for key, value in values["features"].items() if (key, value) != ("storage", AUTO)}
    decisive = [features, plain_space(config.space), decisive_recipe(config)]
    decisive += [
        config.supernet.architectures_per_step,
        search.short_training_steps,
        search.short_training_lr_scale,
        truth,
    ]
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:16]


def kept(path: Path | None, settings: str) -> list[dict[str, Any]]:
    """Return the supernets that an earlier run with the same settings measured."""
    figures = json.loads(path.read_text()) if path is not None and path.exists() else {}
    return list(figures["variants"]) if figures.get("settings") == settings else []


def place_of(entry: dict[str, Any]) -> tuple[str, int, int]:
    """Return the `Variant.place` of a measured supernet."""
    return entry["sampling"], entry["batches"], entry["seed"]


def scored(work: tuple[WorkerSetup, Sequence[Architecture]]) -> Scored:
    """Train a supernet and score architectures with it; called in a separate process."""
    setup, architectures = work
    config, worker = setup.config, CandidateWorker(setup)
    worker.train_supernet(
        SupernetJob(None, {}, 0), SingleProcessGroup(), limit_bytes=None, on_progress=lambda progress: None
    )
    found: Scored = {"one_shot": {name: {} for name in MEASURES}, "short": {name: {} for name in MEASURES}}
    stages: tuple[tuple[Stage, int], ...] = (("one_shot", 0), ("short", config.search.short_training_steps))
    for stage, steps in stages:
        jobs = [
            Job(CandidateKey(trial), architecture, stage, steps, job_seed(config.seed, stage, architecture), 0)
            for trial, architecture in enumerate(architectures)
        ]
        together = config.search.eval_batch if stage == "one_shot" else 1
        for start in range(0, len(jobs), together):
            first, *others = jobs[start : start + together]
            for result in worker.run(replace(first, companions=tuple(others)), limit_bytes=None):
                for name, sign in MEASURES.items():
                    found[stage][name][result.architecture] = sign * result.metrics[name]
    return found


def compared(variant: Variant, scores: Scored, truth: Scores) -> dict[str, Any]:
    """Return the rank correlations of one supernet's scores with the table."""
    of_measures = {
        name: {
            "kendall_tau": tau(scores["short"][name], truth),
            "kendall_tau_inherited": tau(scores["one_shot"][name], truth),
            "within_fusion_layer": {
                stage: {
                    str(layer): tau(of_layer(scores[stage][name], layer), truth)
                    for layer in layers_of(scores[stage][name])
                }
                for stage in scores
            },
        }
        for name in MEASURES
    }
    return {"sampling": variant.name, "batches": variant.batches, "seed": variant.seed, "scores": of_measures}


def tau(scores: Scores, truth: Scores) -> float:
    """Return Kendall's tau-b over the architectures that have both values."""
    both = [architecture for architecture in scores if architecture in truth]
    return float(kendalltau([scores[entry] for entry in both], [truth[entry] for entry in both]).statistic)


def layers_of(scores: Scores) -> list[int]:
    """Return the fusion layers of the scored architectures."""
    return sorted({architecture.first_layer for architecture in scores})


def of_layer(scores: Scores, layer: int) -> Scores:
    """Return the scores of the architectures with one fusion layer."""
    return {architecture: score for architecture, score in scores.items() if architecture.first_layer == layer}


def summary(config: Config, known: Table, measured: Sequence[dict[str, Any]], count: int) -> dict[str, Any]:
    """Return all figures; the top level has those of the demo's own settings."""
    first, second = known.means(METRIC), known.means(METRIC, seeds=(2, 3))
    supernet = config.supernet
    own = Variant(supernet.sampling, supernet.distillation, supernet.steps * supernet.architectures_per_step, 0)
    scores = [
        entry["scores"][score_name(config)]
        for entry in measured
        if (entry["sampling"], entry["batches"]) == (own.name, own.batches)
    ]
    return {
        "architectures": count,
        "seed_deviation": known.seed_deviation(METRIC),
        "deviation_over_architectures": statistics.stdev(first.values()),
        "default": {"sampling": own.name, "batches": own.batches, "score": score_name(config)},
        "kendall_tau": mean_of(scores, "kendall_tau"),
        "kendall_tau_inherited": mean_of(scores, "kendall_tau_inherited"),
        "kendall_tau_ceiling": tau(second, first) if second else None,
        "architectures_of_ceiling": len(second),
        "ceiling_within_fusion_layer": {str(layer): tau(of_layer(second, layer), first) for layer in layers_of(second)},
        "variants": list(measured),
    }


def score_name(config: Config) -> str:
    """Return the metric by which the demo ranks candidates before full training."""
    return config.search.score_name("one_shot")


def mean_of(entries: Sequence[dict[str, Any]], name: str) -> float | None:
    """Return the mean of a figure; None without entries."""
    return statistics.fmean(entry[name] for entry in entries) if entries else None


def show(figures: dict[str, Any]) -> None:
    """Print the figures as tables."""
    rows = []
    for entry in figures["variants"]:
        for name, found in entry["scores"].items():
            within = found["within_fusion_layer"]
            texts = [", ".join(f"{value:.2f}" for value in within[stage].values()) for stage in ("one_shot", "short")]
            rows.append(
                (
                    entry["sampling"],
                    str(entry["batches"]),
                    str(entry["seed"]),
                    name,
                    f"{found['kendall_tau_inherited']:.3f}",
                    texts[0],
                    f"{found['kendall_tau']:.3f}",
                    texts[1],
                )
            )
    print()
    header = ("sampling", "batches", "seed", "score", "one_shot", "for each L_f", "short", "for each L_f")
    print(text_table(header, rows))
    print()
    counts = ("architectures", "seed_deviation", "deviation_over_architectures", "architectures_of_ceiling")
    shown = (*counts, "kendall_tau_ceiling", "kendall_tau_inherited", "kendall_tau")
    print(text_table(("figure", "value"), [(name, _text(figures[name])) for name in shown]))


def _text(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"


if __name__ == "__main__":
    main()
