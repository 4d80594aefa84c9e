"""Measure how often the 90 % interval of the expected test accuracy covers the truth, over simulated searches.

A simulated search knows `--architectures` of the table with `--seeds` seeds each, on half of the validation samples,
drawn with replacement. Its answer is the architecture with the highest mean. The truth is the mean accuracy on test of
the same architecture with its other seeds; the interval includes the luck of that many seeds and test samples.

- coverage: the fraction of searches whose interval covers the truth.
- bias, bias_uncorrected: the mean of the estimate minus the truth, with and without the correction.
- width: the mean width of the interval, over that for an architecture chosen at random, with as many seeds.

`splits: given` keeps the two splits of the table, whose difference in difficulty is then the same in all searches;
`splits: drawn` divides the samples of both again for every search.

A table that `benchmarks.pmf_bench.make --recipe auto` has built holds which predictions of each training are right. For
one that holds metrics only, the predictions are drawn from a model that has its accuracies: the mean of each
architecture, and the deviation of seeds.

Run: python -m benchmarks.selection_coverage [--table FILE] [--searches 2000] [--architectures 60] [--seeds 2]
     [--json FILE] [--quick]
"""

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from benchmarks.models import write_figures
from benchmarks.pmf_bench.table import TABLE, Table, read_table, unpack
from nas.run.tables import text_table
from nas.search.racing import scores_of_samples
from nas.search.selection_bias import expected_score

_METRIC = "accuracy"
_SAMPLES = {"validation": 611, "test": 610}
"""The numbers of samples of the table's data."""

_MODELLED_SEEDS = 4
_SAMPLE, _ARCHITECTURE_SAMPLE = 0.6, 0.1
"""The parts of the latent variance of the model from the sample, and from the sample for one architecture."""

Correct = NDArray[np.bool_]
"""Whether each prediction is right, (architectures, seeds, samples)."""


@dataclass(frozen=True)
class Predictions:
    """The predictions of a table of trainings.

    Args:
        validation: Those on validation.
        test: Those on test.
    """

    validation: Correct
    test: Correct

    @classmethod
    def of(cls, table: Table) -> "Predictions | None":
        """Return those of all architectures of a table that have as many seeds as any.

        Args:
            table: The trainings.

        Returns:
            The predictions; None for a table of metrics only.
        """
        rows = [list(entries.values()) for entries in table.by_architecture.values()]
        seeds = max(map(len, rows), default=0)
        complete = [entries for entries in rows if len(entries) == seeds]
        found: dict[str, list[list[NDArray[np.bool_]]]] = {split: [] for split in _SAMPLES}
        for entries in complete:
            for split, count in _SAMPLES.items():
                stored = [unpack(row.right[split], count) for row in entries if row.right is not None]
                if len(stored) < seeds:
                    return None
                found[split].append(stored)
        return cls(np.array(found["validation"]), np.array(found["test"])) if complete else None

    def divided(self, rng: np.random.Generator) -> "Predictions":
        """Return the predictions with the samples of both splits divided again."""
        together = np.concatenate([self.validation, self.test], axis=2)
        order = rng.permutation(together.shape[2])
        count = self.validation.shape[2]
        return Predictions(together[:, :, order[:count]], together[:, :, order[count:]])


def modelled(table: Table, seed: int = 0) -> Predictions:
    """Draw predictions with the accuracies of a table.

    A prediction is right where the sum of the architecture's quality, its seed, the difficulty of the sample, that of
    the sample for this architecture, and noise is positive; all but the first are normal.

    Args:
        table: The trainings.
        seed: The seed of the random numbers.
    """
    rng = np.random.default_rng(seed)
    accuracies = np.array(list(table.means(_METRIC).values()))
    # The deviation of seeds at the mean accuracy, from the scale of accuracies to that of the latent sum.
    deviation = table.seed_deviation(_METRIC) / _density(ndtri(accuracies.mean()))
    quality = ndtri(accuracies)[:, None, None] * np.sqrt(1 + deviation**2)
    seeds = rng.normal(0, deviation, (len(accuracies), _MODELLED_SEEDS, 1))
    found = {}
    for split, count in _SAMPLES.items():
        difficulty = rng.normal(0, np.sqrt(_SAMPLE), count)
        own = rng.normal(0, np.sqrt(_ARCHITECTURE_SAMPLE), (len(accuracies), 1, count))
        noise = rng.normal(0, np.sqrt(1 - _SAMPLE - _ARCHITECTURE_SAMPLE), (len(accuracies), _MODELLED_SEEDS, count))
        found[split] = quality + seeds + difficulty + own + noise > 0
    return Predictions(found["validation"], found["test"])


def _density(value: float) -> float:
    return float(np.exp(-(value**2) / 2) / np.sqrt(2 * np.pi))


@dataclass(frozen=True)
class Coverage:
    """The figures of one way to divide the samples; see the module."""

    coverage: float
    bias: float
    bias_uncorrected: float
    width: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, default=2000, help="simulated searches (default: 2000)")
    parser.add_argument("--architectures", type=int, default=60, help="architectures of a search (default: 60)")
    parser.add_argument("--seeds", type=int, default=2, help="seeds of a search (default: 2)")
    parser.add_argument("--table", type=Path, default=TABLE, help="the table (default: the committed one)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the figures")
    parser.add_argument("--quick", action="store_true", help="trial run: 50 searches")
    options = parser.parse_args()
    searches = 50 if options.quick else options.searches
    table = read_table(options.table)
    given = Predictions.of(table)
    source = table if given is None else given
    sizes = searches, options.architectures, options.seeds
    found = {splits: simulate(source, *sizes, draws_splits=splits == "drawn") for splits in ("given", "drawn")}
    header = ("splits", "coverage", "bias", "bias uncorrected", "width")
    rows = [(name, *(f"{value:.3f}" for value in asdict(entry).values())) for name, entry in found.items()]
    name = f"{options.table}{' (modelled)' if given is None else ''}"
    print(f"{searches} searches of {options.architectures} architectures of {name}, {options.seeds} seeds each")
    print(text_table(header, rows))
    if options.json is not None:
        settings = {"searches": searches, "architectures": options.architectures, "seeds": options.seeds}
        figures = {name: asdict(entry) for name, entry in found.items()}
        write_figures(options.json, {**settings, "is_modelled": given is None, "splits": figures})


def simulate(
    source: Predictions | Table, searches: int, architectures: int, seeds: int, *, draws_splits: bool
) -> Coverage:
    """Simulate searches.

    Args:
        source: The predictions, or the table to draw them from, again every hundred searches if splits are drawn.
        searches: The number of searches.
        architectures: The number of architectures that a search knows.
        seeds: The number of seeds that it knows.
        draws_splits: Whether the samples are divided again for every search.
    """
    population = modelled(source) if isinstance(source, Table) else source
    covered, errors, raw, widths = 0, [], [], []
    for search in range(searches):
        rng = np.random.default_rng([search, architectures, seeds])
        if draws_splits and isinstance(source, Table) and search % 100 == 0:
            population = modelled(source, seed=search)
        chosen_from = population.divided(rng) if draws_splits else population
        estimate, low, high, unselected, truth, mean = one_search(chosen_from, architectures, seeds, rng)
        covered += low <= truth <= high
        errors.append(estimate - truth)
        raw.append(mean - truth)
        widths.append((high - low) / unselected)
    return Coverage(
        coverage=covered / searches,
        bias=float(np.mean(errors)),
        bias_uncorrected=float(np.mean(raw)),
        width=float(np.mean(widths)),
    )


def one_search(
    population: Predictions, architectures: int, seeds: int, rng: np.random.Generator
) -> tuple[float, float, float, float, float, float]:
    """Simulate one search.

    Args:
        population: The predictions of all trainings.
        architectures: The number of architectures that the search knows.
        seeds: The number of seeds that it knows.
        rng: The random numbers.

    Returns:
        The estimate and the ends of its interval; the width for one architecture chosen beforehand; the truth; the mean
        score of the answer on validation.
    """
    total, all_seeds, samples = population.validation.shape
    known = rng.choice(total, min(architectures, total), replace=False)
    half = rng.choice(samples, samples // 2, replace=True)
    order = np.argsort(rng.random((len(known), all_seeds)), axis=1)
    scores = population.validation[known[:, None], order[:, :seeds]][:, :, half].astype(np.float64)
    field = {place: scores_of_samples(entry) for place, entry in enumerate(scores)}
    best = max(field, key=lambda place: field[place].mean)
    test = population.test[known[best], order[best, seeds:]]
    luck = {"samples": len(half), "new_samples": test.shape[1], "new_seeds": len(test)}
    expected = expected_score(field, best, **luck)
    alone = expected_score(field, 0, is_selected=False, **luck)
    return (
        expected.value,
        expected.low,
        expected.high,
        alone.high - alone.low,
        float(test.mean()),
        field[best].mean,
    )


if __name__ == "__main__":
    main()
