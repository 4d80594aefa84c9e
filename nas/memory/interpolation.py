"""The peak of any PMF architecture from the traces of a few, exactly, or not at all.

The size of a tensor is a product of lengths, of which M_qcp, M_fcp and h come into each at most once, and never two of
them into one. So with L_f, M_qp and the batch given, and as long as the same operations are done in the same order, the
bytes of every storage are affine in (M_qcp, M_fcp, h), and four traces determine them all. A fifth is the check.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nas.memory.tracing import Trace
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.search.space import GeneValue

_STEPS = {"query_context_prompts": 8, "fusion_context_prompts": 8, "mapping_width": 63}
"""From the least value of a gene to another one."""


def surface_key(architecture: PMFArchitecture) -> PMFArchitecture:
    """The least architecture on the same surface: of the same L_f and M_qp, and with the same kinds of context prompts.

    No fusion context prompts are left out where rows are joined, and so, where there are none, are no query context
    prompts. Beside that the least lengths are the ones that might take a way of their own (strides know lengths of 1):
    where they agree with longer ones, all do.
    """
    fusion_context = min(_whole(architecture.fusion_context_prompts), 1)
    query_context = 0 if fusion_context else min(_whole(architecture.query_context_prompts), 1)
    return replace(
        architecture,
        query_context_prompts=query_context,
        fusion_context_prompts=fusion_context,
        mapping_width=1,
    )


@dataclass(frozen=True)
class PeakSurface:
    """Peaks of all architectures with one `surface_key`.

    Args:
        levels: Bytes alive just before a release, one row a moment: [1, M_qcp, M_fcp, h] times a row is its level.
    """

    levels: NDArray[np.int64]

    def peak_bytes(self, architecture: PMFArchitecture) -> int:
        return int((self.levels @ _lengths(architecture)).max(initial=0))

    @classmethod
    def of(cls, least: PMFArchitecture, trace: Callable[[PMFArchitecture], Trace]) -> "PeakSurface | None":
        """The surface of a key; None where steps are not the same all over it.

        Args:
            least: The key.
            trace: Of one training step of an architecture.
        """
        base, check = trace(least), least
        slopes = []
        is_bare = not least.query_context_prompts and not least.fusion_context_prompts
        for gene, step in _STEPS.items():
            if (gene == "query_context_prompts" and is_bare) or (
                gene == "fusion_context_prompts" and not least.fusion_context_prompts
            ):
                slopes.append(np.zeros_like(base.sizes))
                continue
            longer = {gene: getattr(least, gene) + step}
            other, check = trace(replace(least, **longer)), replace(check, **longer)
            if not np.array_equal(other.events, base.events):
                return None
            slopes.append((other.sizes - base.sizes) // step)
        slopes.insert(0, base.sizes - np.stack(slopes, axis=1) @ _lengths(least)[1:])
        sizes = np.stack(slopes, axis=1)  # (storages, 4)
        far = trace(check)
        if not np.array_equal(far.events, base.events) or not np.array_equal(far.sizes, sizes @ _lengths(check)):
            return None
        changes = np.sign(base.events)[:, None] * sizes[np.abs(base.events) - 1]
        # Between two releases nothing but allocations: a level is highest just before the next release.
        is_high = (base.events > 0) & (np.append(base.events[1:], -1) < 0)
        return cls(changes.cumsum(axis=0)[is_high])


def _lengths(architecture: PMFArchitecture) -> NDArray[np.int64]:
    """[1, M_qcp, M_fcp, h]."""
    genes = (architecture.query_context_prompts, architecture.fusion_context_prompts, architecture.mapping_width)
    return np.array([1, *map(_whole, genes)], dtype=np.int64)


def _whole(value: GeneValue) -> int:
    """A gene of an architecture whose layers are all the same."""
    assert isinstance(value, int)
    return value
