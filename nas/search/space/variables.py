"""The variables of a search space: what a strategy chooses values for."""

from dataclasses import dataclass
from functools import cached_property

from nas.search.space.gene import DIRECTIONS


@dataclass(frozen=True)
class Variable:
    """One choice in a search space: a gene, or a gene in one fusing layer, in one direction, or in both.

    Args:
        gene: The name of the gene.
        choices: The allowed values, ascending.
        layer: The layer that the value applies to, counted as the family's layer gene counts, from 0; None if all
            layers share it. An architecture whose layer gene is later does not contain this variable.
        direction: The index into `DIRECTIONS`; None if both directions share the value.
        is_layer: Whether this is the family's layer gene.
    """

    gene: str
    choices: tuple[int, ...]
    layer: int | None = None
    direction: int | None = None
    is_layer: bool = False

    @cached_property
    def name(self) -> str:
        """The name, for instance `mapping_width.layer_4.image_to_text`."""
        parts = [self.gene]
        if self.layer is not None:
            parts.append(f"layer_{self.layer}")
        if self.direction is not None:
            parts.append(DIRECTIONS[self.direction])
        return ".".join(parts)

    def is_active(self, first_layer: int) -> bool:
        """Return whether an architecture with this value of the layer gene contains the variable."""
        return self.layer is None or self.layer >= first_layer
