"""Compare scoring 50 architectures of the demo's space together and one by one, on the validation split.

The supernet is not trained, because the cost of scoring does not depend on its weights. Both sides alternate in one
run; the ratio is the median of the rounds.

Run: python -m benchmarks.population_evaluation [--architectures 50] [--threads 1] [--json FILE] [--quick]
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.models import DEMO
from nas.common.files import default_cache_directory
from nas.common.progress import build_reporter
from nas.config.load import load_config
from nas.data.features.store import FeatureSplit
from nas.memory.measurement import keep_freed_memory
from nas.models.fusion.base import FusionModel
from nas.models.fusion.supernet import build_supernet
from nas.run.prepare import prepare
from nas.run.tables import text_table
from nas.search.space import Architecture
from nas.training.evaluate import predict_logits, predict_population


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", type=int, default=50, help="architectures to score (default: 50)")
    parser.add_argument("--threads", type=int, default=1, help="threads of both sides (default: 1, as in a worker)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="4 architectures and one round, to try the script")
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
    rng = random.Random(0)
    architectures: list[Architecture] = []
    while len(architectures) < (4 if options.quick else options.architectures):
        architecture = config.space.sample(rng)
        if architecture not in architectures:
            architectures.append(architecture)
    keep_freed_memory()  # excludes page faults from the times of both sides
    scoring = Scoring(supernet, prepared.store.splits["validation"], config.recipe.batch_size)
    figures = measure(scoring, architectures, rounds=1 if options.quick else 3)
    figures |= {"architectures": len(architectures), "threads": options.threads}
    for fusion_layer in config.space.choices["fusion_layer"]:
        chosen = [architecture for architecture in architectures if architecture.first_layer == fusion_layer]
        if chosen:
            figures[f"speed_ratio_at_fusion_layer_{fusion_layer}"] = scoring.speed_ratio(chosen)
    print(text_table(("figure", "value"), [(name, f"{value:.4g}") for name, value in figures.items()]))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


@dataclass(frozen=True)
class Scoring:
    """Scores architectures with the weights of one supernet.

    Args:
        supernet: The supernet.
        split: The samples to score on.
        batch_size: The number of samples per batch.
    """

    supernet: FusionModel
    split: FeatureSplit
    batch_size: int

    def together(self, architectures: Sequence[Architecture]) -> tuple[list[Tensor], float]:
        """Compute the logits of all architectures together; return them and the seconds."""
        started = time.perf_counter()
        logits = predict_population(self.supernet, self.split, architectures, batch_size=self.batch_size)
        return logits, time.perf_counter() - started

    def one_by_one(self, architectures: Sequence[Architecture]) -> tuple[list[Tensor], float]:
        """Compute the logits of one architecture after another; return them and the seconds."""
        started = time.perf_counter()
        logits = [
            predict_logits(self.supernet, self.split, batch_size=self.batch_size, architecture=architecture)
            for architecture in architectures
        ]
        return logits, time.perf_counter() - started

    def speed_ratio(self, architectures: Sequence[Architecture]) -> float:
        """Return how many times faster the architectures are scored together, from one run of each side."""
        _, together = self.together(architectures)
        return self.one_by_one(architectures)[1] / together


def measure(scoring: Scoring, architectures: Sequence[Architecture], rounds: int) -> dict[str, float]:
    """Compare both sides over a number of rounds, after a warm-up."""
    together, alone, difference = [], [], 0.0
    scoring.together(architectures[:3])  # a warm-up
    for _ in range(rounds):
        grouped, seconds = scoring.together(architectures)
        together.append(seconds)
        single, seconds = scoring.one_by_one(architectures)
        alone.append(seconds)
        difference = max(float((a - b).abs().max()) for a, b in zip(grouped, single, strict=True))
    return {
        "speed_ratio": statistics.median(a / b for a, b in zip(alone, together, strict=True)),
        "max_logit_difference": difference,
        "together_seconds": statistics.median(together),
        "one_by_one_seconds": statistics.median(alone),
    }


if __name__ == "__main__":
    main()
