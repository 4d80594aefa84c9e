"""The training samples that a search reads before full trainings: all, or a stratified subset (`data.search_share`).

A training that reads S samples, none of them twice, cannot tell a random subset of S samples from the whole: its
batches have the same distribution. So `auto` takes as many samples as the longest of these trainings reads. This leaves
the order of the candidates as it is and bounds everything that reads a whole split. It depends on the configuration and
the number of samples only, so that every worker and every session takes the same subset.
"""

import numpy as np
from numpy.typing import NDArray

from nas.common.seeds import seed_from
from nas.config.schema import Config
from nas.data.features.store import FeatureSplit
from nas.data.samples import Labels, class_counts, label_kind

_LEAST_SAMPLES = 50_000
"""Where there are fewer, a subset saves little."""


def searched_samples(config: Config, sample_count: int) -> int:
    """Return the number of training samples that the supernet and short trainings read.

    Args:
        config: The configuration of the search.
        sample_count: The number of training samples, N.
    """
    if config.data.search_share != "auto":
        return min(max(round(config.data.search_share * sample_count), 1), sample_count)
    supernet = config.supernet.steps * config.supernet.architectures_per_step
    steps = max(supernet, config.search.short_training_steps)
    return min(max(steps * config.recipe.batch_size, _LEAST_SAMPLES), sample_count)


def searched_split(config: Config, split: FeatureSplit) -> FeatureSplit:
    """Return the training samples that the supernet and short trainings read.

    Args:
        config: The configuration of the search.
        split: All training samples.
    """
    count = searched_samples(config, len(split))
    if count == len(split):
        return split
    return split.subset(stratified_subset(split.labels, count, seed_from(config.seed, "search share")))


def share_lines(config: Config, sample_count: int) -> list[str]:
    """Return the line about the share; none if it is all.

    Args:
        config: The configuration of the search.
        sample_count: The number of training samples.
    """
    count = searched_samples(config, sample_count)
    if count == sample_count:
        return []
    return [
        f"Samples: supernet and short trainings read {count:,} of {sample_count:,} training samples "
        f"({count / sample_count:.1%}; data.search_share: {config.data.search_share}), full trainings all of them"
    ]


def stratified_subset(labels: Labels, count: int, seed: int) -> NDArray[np.int64]:
    """Draw samples, of every class in proportion to its size, to within one.

    Args:
        labels: The labels; a sample with several belongs to the rarest of them, pairs of retrieval all to one stratum.
        count: The number of samples to draw.
        seed: The seed of the draw.

    Returns:
        The indices, ascending.
    """
    strata = _strata(labels)
    sizes = np.bincount(strata)
    exact = sizes * (count / len(strata))
    taken = np.floor(exact).astype(np.int64)
    missing = count - int(taken.sum())
    taken[np.argsort(taken - exact, kind="stable")[:missing]] += 1
    order = np.random.default_rng(seed).permutation(len(strata))
    order = order[np.argsort(strata[order], kind="stable")]  # in random order within every class
    rank = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    chosen: NDArray[np.int64] = np.sort(order[rank < np.repeat(taken, sizes)])
    return chosen


def _strata(labels: Labels) -> NDArray[np.int64]:
    kind = label_kind(labels)
    if kind == "single":
        return labels.astype(np.int64)
    if kind == "pairs":
        return np.zeros(len(labels), dtype=np.int64)
    counts = class_counts(labels, labels.shape[1])
    # Samples without a label are a class of their own.
    rarity = np.where(labels > 0, counts, counts.sum() + 1)
    strata: NDArray[np.int64] = np.where((labels > 0).any(axis=1), rarity.argmin(axis=1), labels.shape[1])
    return strata
