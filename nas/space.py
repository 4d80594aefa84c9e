"""The search space of PMF architectures: what may be chosen, and one choice. No torch here.

An architecture is five numbers (section 3 of Li et al., CVPR 2023, arXiv 2304.06306): the layer `L_f` at which fusion
starts, the lengths of the three kinds of prompt (`M_qp`, `M_qcp`, `M_fcp`), and the width `h` of the mappings.
"""

import itertools
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, fields


@dataclass(frozen=True, order=True)
class Architecture:
    """One PMF architecture; hashable, and equal architectures compare equal.

    Args:
        fusion_layer: `L_f`, the number of layers of the shallower encoder that run before fusion starts; 0 fuses all.
        query_prompts: `M_qp`, rows that collect what one modality tells the other; at least 1.
        query_context_prompts: `M_qcp`, rows of context beside them; 0 is allowed.
        fusion_context_prompts: `M_fcp`, rows of context in the receiving modality; 0 is allowed.
        mapping_width: `h`, hidden width of the mapping Linear-ReLU-Linear between the modalities.
    """

    fusion_layer: int
    query_prompts: int
    query_context_prompts: int
    fusion_context_prompts: int
    mapping_width: int

    def as_dict(self) -> dict[str, int]:
        return {gene: getattr(self, gene) for gene in GENES}

    def __str__(self) -> str:
        return (
            f"L_f={self.fusion_layer} M_qp={self.query_prompts} M_qcp={self.query_context_prompts} "
            f"M_fcp={self.fusion_context_prompts} h={self.mapping_width}"
        )


GENES: tuple[str, ...] = tuple(field.name for field in fields(Architecture))
"""Names of the genes, in the order of `Architecture`'s fields."""

SMALLEST_LEGAL: Mapping[str, int] = {
    "fusion_layer": 0,
    "query_prompts": 1,
    "query_context_prompts": 0,
    "fusion_context_prompts": 0,
    "mapping_width": 1,
}
"""The least value that each gene can have in any PMF."""


def default_architecture(*, image_depth: int, text_depth: int, image_width: int, text_width: int) -> Architecture:
    """The PMF paper's default for two encoders: two fusing layers, all prompts 4, width half the larger hidden size."""
    return Architecture(max(min(image_depth, text_depth) - 2, 0), 4, 4, 4, max(image_width, text_width) // 2)


@dataclass(frozen=True)
class SearchSpace:
    """The values that each gene may take, ascending and without repetition.

    Args:
        choices: Gene name → allowed values, for exactly the genes in `GENES`.

    Raises:
        ValueError: If a gene is missing, unknown, empty, not ascending or below what PMF allows.
    """

    choices: Mapping[str, tuple[int, ...]]

    def __post_init__(self) -> None:
        if set(self.choices) != set(GENES):
            raise ValueError(f"the genes of a space are {list(GENES)}, got {sorted(self.choices)}")
        for gene, values in self.choices.items():
            if not values or list(values) != sorted(set(values)) or values[0] < SMALLEST_LEGAL[gene]:
                raise ValueError(
                    f"{gene}: values must be ascending, distinct and at least {SMALLEST_LEGAL[gene]}, "
                    f"got {list(values)}"
                )

    @property
    def size(self) -> int:
        """How many architectures the space holds."""
        return math.prod(len(self.choices[gene]) for gene in GENES)

    @property
    def largest(self) -> Architecture:
        """Earliest fusion, most prompts, widest mapping: contains every other architecture as a prefix slice."""
        return Architecture(self.choices["fusion_layer"][0], *(self.choices[gene][-1] for gene in GENES[1:]))

    @property
    def smallest(self) -> Architecture:
        """Latest fusion, fewest prompts, narrowest mapping."""
        return Architecture(self.choices["fusion_layer"][-1], *(self.choices[gene][0] for gene in GENES[1:]))

    def __contains__(self, architecture: object) -> bool:
        return isinstance(architecture, Architecture) and all(
            value in self.choices[gene] for gene, value in zip(GENES, astuple(architecture), strict=True)
        )

    def __iter__(self) -> Iterator[Architecture]:
        return (Architecture(*values) for values in itertools.product(*(self.choices[gene] for gene in GENES)))

    def sample(self, rng: random.Random) -> Architecture:
        """Draw every gene uniformly."""
        return Architecture(*(rng.choice(self.choices[gene]) for gene in GENES))

    def mutate(self, architecture: Architecture, rng: random.Random, probability: float) -> Architecture:
        """Redraw each gene with the given probability."""
        return Architecture(
            *(
                rng.choice(self.choices[gene]) if rng.random() < probability else value
                for gene, value in architecture.as_dict().items()
            )
        )

    def cross(self, first: Architecture, second: Architecture, rng: random.Random) -> Architecture:
        """Take each gene from one of two parents, uniformly."""
        return Architecture(*(rng.choice(pair) for pair in zip(astuple(first), astuple(second), strict=True)))
