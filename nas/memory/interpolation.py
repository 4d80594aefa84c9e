"""Peak memory of many architectures, interpolated exactly from the traces of a few.

A family declares sets of architectures whose training steps allocate the same storages, of sizes affine in some genes
(`Architecture.affine_memory`). One trace and one more per gene determine all sizes, and a last one verifies them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from nas.memory.tracing import Trace
from nas.search.space import AffineMemory, Architecture


@dataclass(frozen=True)
class PeakSurface:
    """The peaks of all architectures of one set.

    Args:
        genes: The genes g that vary in the set.
        levels: The allocated bytes just before a release, one row for each release: [1, g…] times a row.
    """

    genes: tuple[str, ...]
    levels: NDArray[np.int64]

    def peak_bytes(self, architecture: Architecture) -> int:
        """Return the peak memory of an architecture of the set, in bytes."""
        return int((self.levels @ _lengths(architecture, self.genes)).max(initial=0))

    @classmethod
    def of(cls, affine: AffineMemory, trace: Callable[[Architecture], Trace]) -> "PeakSurface | None":
        """Measure a set of architectures; None where their sizes are not affine.

        Args:
            affine: The set.
            trace: Function that traces one training step of an architecture.
        """
        smallest: Any = affine.smallest
        genes = tuple(affine.steps)
        base, check = trace(smallest), smallest
        slopes: list[NDArray[np.int64]] = []
        for gene, step in affine.steps.items():
            longer = {gene: getattr(smallest, gene) + step}
            other, check = trace(replace(smallest, **longer)), replace(check, **longer)
            if not np.array_equal(other.events, base.events):
                return None
            slopes.append((other.sizes - base.sizes) // step)
        slopes.insert(0, base.sizes - np.stack(slopes, axis=1) @ _lengths(smallest, genes)[1:])
        sizes = np.stack(slopes, axis=1)  # (storages, 1 + genes)
        far = trace(check)
        if not np.array_equal(far.events, base.events) or not np.array_equal(far.sizes, sizes @ _lengths(check, genes)):
            return None
        changes = np.sign(base.events)[:, None] * sizes[np.abs(base.events) - 1]
        # Between two releases there are only allocations, so the level is highest just before the next release.
        is_high = (base.events > 0) & (np.append(base.events[1:], -1) < 0)
        return cls(genes, changes.cumsum(axis=0)[is_high])


def _lengths(architecture: Architecture, genes: tuple[str, ...]) -> NDArray[np.int64]:
    """Return [1, g…]."""
    return np.array([1, *(cast(int, getattr(architecture, gene)) for gene in genes)], dtype=np.int64)
