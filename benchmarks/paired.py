"""Compare variants with a reference by paired seeds: exact sign test, mean difference, Holm's correction."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nas.search.paired import PairedDifference


@dataclass(frozen=True)
class PairedComparison:
    """A variant minus the reference, over seeds that both have.

    Args:
        pairs: The number of pairs.
        wins: The number of pairs in which the variant is better.
        losses: The number of pairs in which it is worse; the others are ties.
        mean: The mean difference.
        half_width: Half the width of its 95 % interval; None where the differences say nothing about it, see
            `PairedDifference`.
        p_value: The two-sided p-value of the exact sign test, which leaves out ties; 1 without other pairs.
        adjusted: The p-value after Holm's correction for the number of variants.
    """

    pairs: int
    wins: int
    losses: int
    mean: float
    half_width: float | None
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
    found: dict[str, tuple[Counter[int], PairedDifference]] = {}
    for name, scores in variants.items():
        signs = Counter((score > other) - (score < other) for score, other in zip(scores, reference, strict=True))
        difference = PairedDifference.of(scores, reference)
        assert difference is not None, "there is a seed"
        found[name] = signs, difference
    p_values = {name: _sign_test(signs[1], signs[-1]) for name, (signs, _) in found.items()}
    adjusted = holm(p_values)
    return {
        name: PairedComparison(
            difference.count,
            signs[1],
            signs[-1],
            difference.mean,
            difference.half_width,
            p_values[name],
            adjusted[name],
        )
        for name, (signs, difference) in found.items()
    }


def _sign_test(wins: int, losses: int) -> float:
    """Return the two-sided p-value: twice the probability of no more of the rarer sign, at most 1."""
    count = wins + losses
    tail = sum(math.comb(count, rarer) for rarer in range(min(wins, losses) + 1))
    p_value: float = min(1.0, 2 * tail / 2**count)
    return p_value


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
