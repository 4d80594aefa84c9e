"""Measure what each part of a pretraining contributes: a family's default with the whole, none, and all but one part.

Every variant is pretrained and trained with the same seeds, so that its fresh weights and the order of its samples are
those of the others; the numbers of steps are fixed, so that a variant that needs less time gets no more steps. Scores
are those of the objective on validation. Each variant is compared with the whole pretraining by the exact sign test
over its paired seeds and by the mean difference with its 95 % interval, the p-values corrected by Holm's procedure.

With six seeds the smallest possible p-value is 0.031 before the correction: this says what is plausible, not more.

Every finished training is kept in the file of `--json`, and not repeated by a further call.

Run: python -m benchmarks.pretraining_ablation SEARCH_FILE --family FAMILY [--pretraining-steps 150] [--steps 100]
     [--seeds 6] [--json FILE] [--quick]
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.mapping import mapped
from benchmarks.models import DEMO, few_samples, write_figures
from benchmarks.paired import PairedComparison, compare_paired
from nas.common.files import default_cache_directory
from nas.common.progress import Reporter, build_reporter
from nas.config.load import load_config, parse_config
from nas.config.schema import Config
from nas.execution.worker import CandidateWorker
from nas.execution.worker_setup import WorkerSetup
from nas.run.defaults import complete
from nas.run.executors import write_worker_setup
from nas.run.prepare import SearchContext, prepare
from nas.run.tables import text_table
from nas.search.keys import CandidateKey
from nas.search.space import Architecture
from nas.search.space.family_registry import FAMILIES, load_architecture_class
from nas.search.trial import Job

WHOLE = "whole pretraining"
QUICK_STEPS = 2


@dataclass(frozen=True)
class Variant:
    """A form of the pretraining.

    Args:
        name: What is left out.
        changes: Keys of the section `pretraining` that differ from the whole one.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One training of one variant.

    Args:
        setup: The setup of the worker.
        architecture: The architecture.
        variant: The name of the variant.
        seed: The seed.
        steps: The number of steps after the pretraining.
    """

    setup: WorkerSetup
    architecture: Architecture
    variant: str
    seed: int
    steps: int


def variants_of(family: str) -> list[Variant]:
    """Return the whole pretraining of a family, none, and the whole one without each of its parts.

    Args:
        family: A family that can be pretrained.
    """
    objectives = load_architecture_class(family).pretraining_objectives
    found = [Variant(WHOLE), Variant("no pretraining", {"steps": 0})]
    if {"contrastive", "masked_language"} & set(objectives):
        found.append(Variant("no momentum distillation", {"distillation": 0.0}))
    if {"contrastive", "matching"} <= set(objectives):
        found.append(Variant("no hard negatives", {"hard_negatives": False}))
    for name in objectives if len(objectives) > 1 else ():
        others = [other for other in objectives if other != name]
        found.append(Variant(f"no {name.replace('_', ' ')} objective", {"objectives": others}))
    return found


def config_of(source: Path, family: str, pretraining: Mapping[str, Any], directory: Path, *, is_quick: bool) -> Config:
    """Return the search of a family with a pretraining, on the data and with the encoders of a search file.

    Args:
        source: The search file.
        family: The family.
        pretraining: The section `pretraining`.
        directory: The folder for the few samples of a trial run.
        is_quick: Whether this is a trial run.
    """
    values = (few_samples(directory) if is_quick else load_config(source)).as_dict()
    kept = {key: values[key] for key in ("name", "data", "encoders")}
    kept |= {"search": {"objective": values["search"]["objective"]}, "family": family, "pretraining": dict(pretraining)}
    return complete(parse_config(kept, source=str(source), base_directory=Path.cwd()), source=str(source))


def trained(cell: Cell) -> dict[str, Any]:
    """Run a cell, and return its score and time."""
    job = Job(CandidateKey(cell.seed), cell.architecture, "full", cell.steps, cell.seed, 0)
    (result,) = CandidateWorker(cell.setup).run(job, limit_bytes=None)
    return {"variant": cell.variant, "seed": cell.seed, "score": result.score, "seconds": result.seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, nargs="?", default=DEMO, help="search file with data and encoders")
    pretrainable = [name for name in FAMILIES.names() if load_architecture_class(name).pretraining_objectives]
    parser.add_argument("--family", choices=pretrainable, required=True, help="the family")
    parser.add_argument("--pretraining-steps", type=int, default=150, help="steps of a pretraining (default: 150)")
    parser.add_argument("--steps", type=int, default=100, help="steps of the training after it (default: 100)")
    parser.add_argument("--seeds", type=int, default=6, help="number of seeds (default: 6)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the figures")
    parser.add_argument(
        "--quick", action="store_true", help="trial run: 2 seeds and 2 steps of few samples of the demo"
    )
    options = parser.parse_args()
    with build_reporter() as reporter:
        figures = measure(options, reporter)
    show(figures)


def measure(options: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Run the cells that the file of figures lacks, and return the figures.

    Args:
        options: The options of the command line.
        reporter: The receiver of messages.
    """
    steps = QUICK_STEPS if options.quick else options.steps
    pretraining = {"steps": QUICK_STEPS if options.quick else options.pretraining_steps}
    seeds, variants = range(2 if options.quick else options.seeds), variants_of(options.family)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        configs = {
            variant.name: config_of(
                options.source, options.family, {**pretraining, **variant.changes}, directory, is_quick=options.quick
            )
            for variant in variants
        }
        # All variants read the same features.
        prepared = prepare(
            configs[WHOLE],
            source=str(options.source),
            cache_directory=default_cache_directory(),
            reporter=reporter,
        )
        settings = settings_of(configs[WHOLE], prepared, steps)
        done = kept(options.json, settings)
        known = {(entry["variant"], entry["seed"]) for entry in done}
        wanted = [(variant.name, seed) for seed in seeds for variant in variants]
        missing = [place for place in wanted if place not in known]
        setups = {
            name: setup_of(config, prepared, directory / str(number))
            for number, (name, config) in enumerate(configs.items())
            if name in dict(missing)
        }
        cells = [Cell(setups[name], prepared.default, name, seed, steps) for name, seed in missing]
        for entry in mapped(trained, cells, is_quick=options.quick):
            done.append(entry)
            reporter.note(f"{entry['variant']}, seed {entry['seed']}: {entry['score']:.4f}, {entry['seconds']:.0f}s")
            write_figures(options.json, {"settings": settings, "cells": done})
    return summary(settings, done, list(seeds), options.json)


def setup_of(config: Config, prepared: SearchContext, directory: Path) -> WorkerSetup:
    """Return the setup of a variant, whose files are in a folder of its own."""
    directory.mkdir(exist_ok=True)
    return write_worker_setup(config, prepared, directory, thread_count=1)


def settings_of(config: Config, prepared: SearchContext, steps: int) -> dict[str, Any]:
    """Return everything besides variant and seed that a score depends on."""
    values = config.as_dict()
    return {
        "family": config.family,
        "architecture": prepared.default.as_dict(),
        "recipe": values["recipe"],
        "pretraining": values["pretraining"],
        "contents": dict(prepared.contents.summary()),
        "steps": steps,
    }


def kept(path: Path | None, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the cells that an earlier call with the same settings has finished."""
    figures = json.loads(path.read_text()) if path is not None and path.exists() else {}
    return list(figures["cells"]) if figures.get("settings") == json.loads(json.dumps(settings)) else []


def summary(
    settings: Mapping[str, Any], cells: Sequence[Mapping[str, Any]], seeds: Sequence[int], path: Path | None
) -> dict[str, Any]:
    """Compare the variants with the whole pretraining, and write the file of figures.

    Args:
        settings: The settings.
        cells: The finished cells.
        seeds: The seeds to compare.
        path: The file of figures; None for none.
    """
    scores: dict[str, dict[int, float]] = {}
    for cell in cells:
        scores.setdefault(cell["variant"], {})[cell["seed"]] = cell["score"]
    by_seed = {name: [found[seed] for seed in seeds] for name, found in scores.items()}
    reference = by_seed.pop(WHOLE)
    compared: dict[str, PairedComparison] = compare_paired(reference, by_seed)
    figures = {
        "settings": settings,
        "cells": list(cells),
        "scores": {WHOLE: reference, **by_seed},
        "comparisons": {name: asdict(comparison) for name, comparison in compared.items()},
    }
    write_figures(path, figures)
    return figures


def show(figures: Mapping[str, Any]) -> None:
    """Print the table of the comparisons."""
    rows = [(WHOLE, _mean(figures["scores"][WHOLE]), "", "", "", "")]
    for name, entry in figures["comparisons"].items():
        rows.append(
            (
                name,
                _mean(figures["scores"][name]),
                f"{entry['mean']:+.4f}",
                _interval(entry["mean"], entry["half_width"]),
                f"{entry['wins']} of {entry['pairs']}",
                f"{entry['p_value']:.3f} ({entry['adjusted']:.3f})",
            )
        )
    header = ("variant", "validation score", "minus whole", "95 % interval", "better", "sign test (Holm)")
    print(text_table(header, rows))


def _interval(mean: float, half_width: float | None) -> str:
    return "unknown" if half_width is None else f"{mean - half_width:+.4f} to {mean + half_width:+.4f}"


def _mean(scores: Sequence[float]) -> str:
    return f"{sum(scores) / len(scores):.4f}"


if __name__ == "__main__":
    main()
