"""Peak memory of many architectures, interpolated exactly from the traces of a few.

A family declares sets of architectures whose training steps allocate the same storages, of sizes affine in some genes
(`Architecture.affine_memory`). One trace, and one more per gene, determine all sizes. A last trace, far from the
others, verifies that operations and sizes are as declared.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.memory.tracing import Trace, peak_of
from nas.search.space import AffineMemory, Architecture


@dataclass(frozen=True)
class PeakSurface:
    """The peaks of all architectures of one set.

    Args:
        genes: The genes g that vary in the set.
        events: The allocations and releases of a step; see `Trace`.
        storages: The bytes of the storages, one row per storage: a row times [1, g…] is its size.
        block_bytes: The unit of the allocator.
    """

    genes: tuple[str, ...]
    events: NDArray[np.int64]
    storages: NDArray[np.int64]
    block_bytes: int

    def peak_bytes(self, architecture: Architecture) -> int:
        """Return the peak of an architecture of the set, in bytes."""
        return peak_of(self.events, self.storages @ _lengths(architecture, self.genes), self.block_bytes)

    @classmethod
    def fit(cls, affine: AffineMemory, trace: Callable[[Architecture], Trace]) -> "PeakSurface | None":
        """Fit the surface of a set of architectures; return None if their storages are not as declared.

        Args:
            affine: The set of architectures, as its family declares it.
            trace: Function that traces one training step of an architecture.
        """
        smallest, genes = affine.smallest, tuple(affine.steps)
        base = trace(smallest)
        slopes: list[NDArray[np.int64]] = []
        far_values: dict[str, int] = {}
        for gene, step in affine.steps.items():
            far_values[gene] = getattr(smallest, gene) + step
            other = trace(_replace(smallest, {gene: far_values[gene]}))
            if not np.array_equal(other.events, base.events):
                return None
            slopes.append((other.sizes - base.sizes) // step)
        constants = base.sizes - np.stack(slopes, axis=1) @ _lengths(smallest, genes)[1:]
        sizes = np.stack([constants, *slopes], axis=1)  # (storages, 1 + genes)
        far_architecture = _replace(smallest, far_values)
        far, expected_sizes = trace(far_architecture), sizes @ _lengths(far_architecture, genes)
        if not np.array_equal(far.events, base.events) or not np.array_equal(far.sizes, expected_sizes):
            return None
        return cls(genes, base.events, sizes, base.block_bytes)


def _lengths(architecture: Architecture, genes: tuple[str, ...]) -> NDArray[np.int64]:
    """Return [1, g…]."""
    return np.array([1, *(getattr(architecture, gene) for gene in genes)], dtype=np.int64)


def _replace(architecture: Architecture, values: Mapping[str, int]) -> Architecture:
    """Return an architecture with some genes replaced."""
    dataclass_instance: Any = architecture  # every architecture is one
    replaced: Architecture = replace(dataclass_instance, **values)
    return replaced
