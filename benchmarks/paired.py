"""Compare variants with a reference by paired seeds: exact sign test, mean difference, Holm's correction."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import t

CONFIDENCE = 0.95


@dataclass(frozen=True)
class PairedComparison:
    """A variant minus the reference, over seeds that both have.

    Args:
        pairs: The number of pairs.
        wins: The number of pairs in which the variant is better.
        losses: The number of pairs in which it is worse; the others are ties.
        mean: The mean difference.
        low: The lower end of its 95 % interval by Student's t distribution; minus infinity with less than two pairs.
        high: The upper end.
        p_value: The two-sided p-value of the exact sign test, which leaves out ties; 1 without other pairs.
        adjusted: The p-value after Holm's correction for the number of variants.
    """

    pairs: int
    wins: int
    losses: int
    mean: float
    low: float
    high: float
    p_value: float
    adjusted: float


def compare_paired(reference: Sequence[float], variants: Mapping[str, Sequence[float]]) -> dict[str, PairedComparison]:
    """Compare variants with a reference.

    Args:
        reference: The scores of the reference, higher is better, one per seed.
        variants: The scores of each variant with the same seeds.

    Returns:
        The comparison of each variant.

    Raises:
        ValueError: If a variant has another number of seeds, or there are none.
    """
    if not reference or any(len(scores) != len(reference) for scores in variants.values()):
        counts = {name: len(scores) for name, scores in variants.items()}
        raise ValueError(f"scores: unequal numbers of seeds; expected {len(reference)} (above 0) each, got {counts}")
    differences = {
        name: [score - other for score, other in zip(scores, reference, strict=True)]
        for name, scores in variants.items()
    }
    p_values = {name: _sign_test(values) for name, values in differences.items()}
    adjusted = holm(p_values)
    return {
        name: PairedComparison(
            len(values),
            sum(value > 0 for value in values),
            sum(value < 0 for value in values),
            statistics.fmean(values),
            *_interval(values),
            p_values[name],
            adjusted[name],
        )
        for name, values in differences.items()
    }


def _sign_test(differences: Sequence[float]) -> float:
    """Return the two-sided p-value: twice the probability of no more of the rarer sign, at most 1."""
    wins, losses = sum(value > 0 for value in differences), sum(value < 0 for value in differences)
    count = wins + losses
    tail = sum(math.comb(count, rarer) for rarer in range(min(wins, losses) + 1))
    p_value: float = min(1.0, 2 * tail / 2**count)
    return p_value


def _interval(differences: Sequence[float]) -> tuple[float, float]:
    count = len(differences)
    if count < 2:
        return -math.inf, math.inf
    half = float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) * statistics.stdev(differences) / math.sqrt(count)
    mean = statistics.fmean(differences)
    return mean - half, mean + half


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values corrected for their number (Holm, Scandinavian Journal of Statistics 6, 1979).

    Args:
        p_values: The p-values by name.
    """
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}
