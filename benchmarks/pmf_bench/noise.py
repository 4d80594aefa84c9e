"""Compare what architectures differ by with what seeds differ by: how well any score could order them.

The accuracies of a table are taken as architecture + seed, both normal. Their variances follow from the pairs of seeds
0 and 1 (one-way analysis of variance). A score that knew every architecture's mean without error would still agree with
the mean of two seeds only up to Kendall's tau 2 / π · arcsin(ρ), where ρ is the correlation of the two.

Run: python -m benchmarks.pmf_bench.noise [--table FILE] [--metric accuracy] [--json FILE]
"""

import argparse
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.models import write_figures
from benchmarks.pmf_bench.make import METRICS
from benchmarks.pmf_bench.table import TABLE, read_table
from nas.run.tables import text_table


@dataclass(frozen=True)
class Spread:
    """The spread of a group of architectures.

    Args:
        architectures: The number of architectures.
        architecture_deviation: The standard deviation of their true means.
        seed_deviation: The standard deviation over the seeds of one.
        best_tau: The expected Kendall's tau between their true means and the means of two seeds.
    """

    architectures: int
    architecture_deviation: float
    seed_deviation: float
    best_tau: float


def spread(pairs: Sequence[tuple[float, float]]) -> Spread:
    """Estimate the spread of architectures that were trained with two seeds each.

    Args:
        pairs: The metric of both seeds of each architecture; at least two.
    """
    seed_variance = statistics.fmean((first - second) ** 2 / 2 for first, second in pairs)
    of_means = statistics.variance([statistics.fmean(pair) for pair in pairs])
    variance = max(of_means - seed_variance / 2, 0.0)
    correlation = math.sqrt(variance / of_means) if of_means else 0.0
    best_tau = 2 / math.pi * math.asin(min(correlation, 1.0))
    return Spread(len(pairs), math.sqrt(variance), math.sqrt(seed_variance), best_tau)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TABLE, help="file of the table")
    parser.add_argument("--metric", default="accuracy", choices=METRICS, help="validation metric (default: accuracy)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the figures")
    options = parser.parse_args()
    pairs: dict[str, list[tuple[float, float]]] = {"all": []}
    for architecture, trainings in read_table(options.table).by_architecture.items():
        if {0, 1} <= trainings.keys():
            pair = trainings[0].validation[options.metric], trainings[1].validation[options.metric]
            for name in ("all", f"fusion layer {architecture.first_layer}"):
                pairs.setdefault(name, []).append(pair)
    spreads = {name: spread(pairs[name]) for name in sorted(pairs) if len(pairs[name]) > 1}
    rows = [
        (
            name,
            str(entry.architectures),
            f"{entry.architecture_deviation:.4f}",
            f"{entry.seed_deviation:.4f}",
            f"{entry.best_tau:.2f}",
        )
        for name, entry in spreads.items()
    ]
    print(text_table(("", "architectures", "deviation of architectures", "of seeds", "best possible tau"), rows))
    write_figures(options.json, {name: asdict(entry) for name, entry in spreads.items()})


if __name__ == "__main__":
    main()
