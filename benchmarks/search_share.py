"""Whether short trainings on a share of the training samples order candidates as those on all samples do.

Random architectures of the demo are trained for a fixed number of steps from fresh weights, on all training samples
and on stratified subsets, and ranked by their cross-entropy on validation. Kendall's tau compares every ranking with
that of the whole; the ceiling is the tau between two rankings on the whole with other seeds. `one pass` is the subset
of as many samples as the steps read, which is what `data.search_share: auto` takes; smaller ones are read several
times.

Run: python -m benchmarks.search_share [--architectures 24] [--steps 28] [--seeds 3] [--json FILE] [--quick]
"""

import argparse
import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau

from benchmarks.models import DEMO, papers_space, write_figures
from nas.common.files import default_cache_directory
from nas.common.progress import LineReporter
from nas.config.load import load_config
from nas.config.schema import Config
from nas.data.features.store import FeatureSplit
from nas.models.fusion.supernet import build_model
from nas.run.prepare import SearchContext, prepare
from nas.run.tables import text_table
from nas.search.space import Architecture
from nas.training.evaluate import predict_logits
from nas.training.metrics import evaluate_logits
from nas.training.search_share import stratified_subset
from nas.training.trainer import train

_SMALLER = (0.25, 0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", type=int, default=24)
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--seeds", type=int, default=3, help="subsets of each size, and seeds of the ceiling")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="3 architectures, 2 steps, one seed, as a test")
    options = parser.parse_args()
    if options.quick:
        options.architectures, options.steps, options.seeds = 3, 2, 1
    config = load_config(DEMO)
    reporter = LineReporter(io.StringIO())
    context = prepare(config, source=str(DEMO), cache_directory=default_cache_directory(), reporter=reporter)
    rng, space = random.Random(0), papers_space(config.space)
    architectures = list(dict.fromkeys(space.sample(rng) for _ in range(4 * options.architectures)))
    architectures = architectures[: options.architectures]
    whole = context.store.splits["train"]
    count = min(options.steps * config.recipe.batch_size, len(whole))

    def ranking(split: FeatureSplit, seed: int) -> list[float]:
        return [loss(config, context, split, entry, options.steps, seed) for entry in architectures]

    reference = ranking(whole, 0)
    taus: dict[str, list[float]] = {
        "all, other seeds": [],
        "one pass": [],
        **{f"{share:.0%}": [] for share in _SMALLER},
    }
    for seed in range(1, options.seeds + 1):
        sizes = {"one pass": count, **{f"{share:.0%}": round(share * len(whole)) for share in _SMALLER}}
        taus["all, other seeds"].append(tau(reference, ranking(whole, seed)))
        for name, size in sizes.items():
            part = whole.subset(stratified_subset(whole.labels, size, seed))
            taus[name].append(tau(reference, ranking(part, seed)))
    rows = [(name, f"{np.mean(found):.2f}", f"{min(found):.2f} to {max(found):.2f}") for name, found in taus.items()]
    print(f"{len(architectures)} architectures, {options.steps} steps; one pass is {count} of {len(whole)} samples")
    print(text_table(("training samples", "mean tau", "range"), rows))
    figures: dict[str, Any] = {"architectures": len(architectures), "steps": options.steps, "tau": taus}
    write_figures(options.json, figures)


def loss(
    config: Config, context: SearchContext, split: FeatureSplit, architecture: Architecture, steps: int, seed: int
) -> float:
    """Return the cross-entropy on validation after a short training.

    Args:
        config: The configuration of the demo.
        context: Its features and encoders.
        split: The training samples.
        architecture: The architecture.
        steps: The number of steps.
        seed: The seed of the weights and the batches.
    """
    model = build_model(
        image_encoder=context.image_encoder,
        text_encoder=context.text_encoder,
        architecture=architecture,
        num_classes=len(context.store.class_names),
        seed=seed,
    )
    train(model=model, split=split, recipe=config.recipe, step_count=steps, seed=seed)
    validation = context.store.splits["validation"]
    logits = predict_logits(model, validation, batch_size=config.recipe.batch_size)
    return evaluate_logits(logits, torch.from_numpy(validation.labels))["cross_entropy"]


def tau(first: list[float], second: list[float]) -> float:
    """Return Kendall's tau between two lists of losses."""
    return float(kendalltau(first, second).statistic)


if __name__ == "__main__":
    main()
