"""Scoring 50 architectures of the demo's space on its validation split: together against one by one.

The weights are those of a fresh supernet; what a product costs does not depend on its numbers. Both sides take turns in
one run; the ratio is the median of the rounds.

Run: python -m benchmarks.population_evaluation [--architectures 50] [--threads 1] [--json FILE] [--quick]
"""

import argparse
import json
import random
import statistics
import time
from pathlib import Path

import torch

from benchmarks.models import DEMO
from nas.common.files import default_cache_directory
from nas.common.progress import build_reporter
from nas.config.load import load_config
from nas.memory.measurement import keep_freed_memory
from nas.models.fusion.supernet import build_supernet
from nas.run.prepare import prepare
from nas.run.tables import text_table
from nas.search.space import Architecture
from nas.training.evaluate import predict_logits, predict_population


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1, help="of both sides (default: 1, as the demo's workers have)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="4 architectures, one round: shows that the script works")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = load_config(DEMO)
    with build_reporter() as reporter:
        prepared = prepare(config, source=str(DEMO), cache_directory=default_cache_directory(), reporter=reporter)
    supernet = build_supernet(
        image_encoder=prepared.image_encoder,
        text_encoder=prepared.text_encoder,
        space=config.space,
        num_classes=len(prepared.store.class_names),
        seed=0,
    )
    split, size = prepared.store.splits["validation"], config.recipe.batch_size
    rng = random.Random(0)
    architectures: list[Architecture] = []
    while len(architectures) < (4 if options.quick else options.architectures):
        architecture = config.space.sample(rng)
        if architecture not in architectures:
            architectures.append(architecture)
    keep_freed_memory()  # so that paging is no part of the comparison; both sides gain

    rounds = 1 if options.quick else 3
    together, alone, difference = [], [], 0.0
    predict_population(supernet, split, architectures[:3], batch_size=size)  # a warm-up
    for _ in range(rounds):
        started = time.perf_counter()
        grouped = predict_population(supernet, split, architectures, batch_size=size)
        together.append(time.perf_counter() - started)
        started = time.perf_counter()
        single = [predict_logits(supernet, split, batch_size=size, architecture=entry) for entry in architectures]
        alone.append(time.perf_counter() - started)
        difference = max(float((a - b).abs().max()) for a, b in zip(grouped, single, strict=True))
    by_layer = {}
    for fusion_layer in config.space.choices["fusion_layer"]:
        chosen = [entry for entry in architectures if entry.fusion_layer == fusion_layer]
        if not chosen:
            continue
        started = time.perf_counter()
        predict_population(supernet, split, chosen, batch_size=size)
        grouped_seconds = time.perf_counter() - started
        started = time.perf_counter()
        for entry in chosen:
            predict_logits(supernet, split, batch_size=size, architecture=entry)
        by_layer[fusion_layer] = (time.perf_counter() - started) / grouped_seconds
    figures = {
        "speed_ratio": statistics.median(a / b for a, b in zip(alone, together, strict=True)),
        "max_logit_difference": difference,
        "together_seconds": statistics.median(together),
        "one_by_one_seconds": statistics.median(alone),
        "architectures": len(architectures),
        "threads": options.threads,
        **{f"speed_ratio_at_fusion_layer_{layer}": ratio for layer, ratio in by_layer.items()},
    }
    print(text_table(("figure", "value"), [(name, f"{value:.4g}") for name, value in figures.items()]))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
