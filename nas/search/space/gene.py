"""Genes: the searchable properties of a fusion family, and their values. Imports no torch."""

import itertools
from dataclasses import dataclass
from typing import Any, Literal

from nas.common.boundary import shown

PerLayer = tuple[tuple[int, int], ...]
"""One pair (image → text, text → image) per layer, starting at the first layer that has the gene. In a family without
directions both numbers are equal."""

GeneValue = int | PerLayer
"""The value of a gene in an architecture: one number for the whole model, or one pair per layer."""

PlainValue = int | str | list[list[int]]
"""The value of a gene in files: a number, the name of a value, or a list of pairs."""

Granularity = Literal["model", "layer", "direction", "layer_and_direction"]
"""What a gene has separate values for: nothing (one value for the model), each layer, each direction, or both."""
GRANULARITIES: tuple[Granularity, ...] = ("model", "layer", "direction", "layer_and_direction")

DIRECTIONS = ("image_to_text", "text_to_image")

MAX_LAYERS = 1_000
"""The upper bound of layers: no encoder has more."""
_MAX_LENGTH = 65_536


@dataclass(frozen=True)
class Gene:
    """One searchable property of a family.

    Args:
        name: The key in search files and the field of the architecture class.
        symbol: The short name in tables and progress lines.
        smallest: The smallest value that any model of the family allows.
        granularities: The granularities that the gene supports.
        is_layer: Whether this is the layer gene, the layer where fusion or prompting starts; a lower value is a larger
            model. A family has at most one, its first gene, with one value for the whole model.
        names: The names of the values 0, 1, … of a gene whose values are alternatives rather than sizes, the cheapest
            first. Each has weights of its own in a supernet. The first is the paper's: it is the value in spaces that
            leave the gene out, so the field of the architecture class has 0 as its default.
        unit: What a size counts, for the axes of figures; empty for layers and alternatives.
        only_with: The name of a gene with names, and those of its values beside which this gene has a meaning; None if
            it always has one. Beside other values it is `smallest`, and no variable of a space. Both genes have one
            value for the whole model.
    """

    name: str
    symbol: str
    smallest: int
    granularities: tuple[Granularity, ...] = ("model",)
    is_layer: bool = False
    names: tuple[str, ...] = ()
    unit: str = ""
    only_with: tuple[str, tuple[str, ...]] | None = None

    @property
    def largest(self) -> int:
        """The largest value that any model could have: no device holds longer prompts or wider mappings."""
        if self.names:
            return len(self.names) - 1
        return MAX_LAYERS if self.is_layer else _MAX_LENGTH

    @property
    def every(self) -> int:
        """The value of a gene with names in a supernet, whose weights serve all of them; not of a trained model."""
        return len(self.names)

    def plain(self, value: GeneValue) -> PlainValue:
        """Return a value as it stands in files."""
        if isinstance(value, int):
            return self.format(value) if self.names else value
        return [list(pair) for pair in value]

    def parse(self, value: Any) -> Any:
        """Return the value that `plain` describes; lists in place of tuples are allowed.

        Raises:
            ValueError: If no architecture has it; a space decides whether it is allowed.
        """
        if self.names:
            if isinstance(value, str) and value in self.names:
                return self.names.index(value)
            raise ValueError(f"{self.name}: expected one of {', '.join(self.names)}, got {shown(value)}")
        if not self._is_value(value):
            raise ValueError(
                f"{self.name}: expected a whole number of at most {self.largest:,} or a list of pairs of them, got "
                f"{shown(value)}"
            )
        return value

    def format(self, value: GeneValue) -> str:
        """Format a value; see `format_gene`. Values with names are those."""
        if not self.names:
            return format_gene(value)
        assert isinstance(value, int)
        return "+".join(self.names) if value == self.every else self.names[value]

    def _is_value(self, value: object) -> bool:
        if isinstance(value, list | tuple) and not self.is_layer:
            return 0 < len(value) <= MAX_LAYERS and all(
                isinstance(pair, list | tuple) and len(pair) == len(DIRECTIONS) and all(map(self._is_number, pair))
                for pair in value
            )
        return self._is_number(value)

    def _is_number(self, value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= self.largest


def canonical(value: GeneValue) -> GeneValue:
    """Return one number if all values are equal, else tuples; accepts lists, as from JSON."""
    if isinstance(value, int):
        return value
    pairs = tuple((int(first), int(second)) for first, second in value)
    different = set(itertools.chain(*pairs))
    return different.pop() if len(different) == 1 else pairs


def format_gene(value: GeneValue) -> str:
    """Format numbers of a gene: `4`; `4,8` if layers differ; `4/8` if directions differ; `4/8,2/2` if both do."""
    if isinstance(value, int):
        return str(value)
    if all(first == second for first, second in value):
        return ",".join(str(first) for first, _ in value)
    texts = [f"{first}/{second}" for first, second in value]
    return texts[0] if len(set(texts)) == 1 else ",".join(texts)
