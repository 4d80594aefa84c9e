"""The search space of PMF architectures: what may be chosen, and one choice. No torch here.

An architecture is five genes (section 3 of Li et al., CVPR 2023, arXiv 2304.06306): the layer `L_f` at which fusion
starts, the lengths of the three kinds of prompt (`M_qp`, `M_qcp`, `M_fcp`), and the width `h` of the mappings. The
paper has one value of each for the whole model. Here a gene may be free in every fusing layer, in both directions, or
both, as AutoFormer's (Chen et al., ICCV 2021) are in every layer.
"""

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property, total_ordering
from typing import Any, Literal

PerLayer = tuple[tuple[int, int], ...]
Lengths = int | PerLayer
"""A gene of an architecture: one value for the whole model, or a pair for every fusing layer, the first one first:
image → text and text → image."""

Per = Literal["model", "layer", "direction", "layer_and_direction"]
PER: tuple[Per, ...] = ("model", "layer", "direction", "layer_and_direction")
"""What a gene of a space has a value for."""

_LEVELS = 16

DIRECTIONS = ("image_to_text", "text_to_image")


@dataclass(frozen=True)
class Sizes:
    """One direction of one fusing layer.

    Args:
        query_prompts: `M_qp`, rows that collect what one modality tells the other.
        query_context_prompts: `M_qcp`, rows of context beside them.
        fusion_context_prompts: `M_fcp`, rows of context in the receiving modality.
        mapping_width: `h`, hidden width of the mapping Linear-ReLU-Linear.
    """

    query_prompts: int
    query_context_prompts: int
    fusion_context_prompts: int
    mapping_width: int


@total_ordering
@dataclass(frozen=True)
class Architecture:
    """One PMF architecture; hashable. Two ways to write one architecture are equal: only what it uses is in it.

    Args:
        fusion_layer: `L_f`, the number of layers of the shallower encoder that run before fusion starts; 0 fuses all.
        query_prompts: `M_qp`; at least 1.
        query_context_prompts: `M_qcp`; 0 is allowed.
        fusion_context_prompts: `M_fcp`; 0 is allowed.
        mapping_width: `h`.

    Raises:
        ValueError: If genes that differ between layers do so for different numbers of layers.
    """

    fusion_layer: int
    query_prompts: Lengths
    query_context_prompts: Lengths
    fusion_context_prompts: Lengths
    mapping_width: Lengths

    def __post_init__(self) -> None:
        for gene in GENES[1:]:
            object.__setattr__(self, gene, _canonical(getattr(self, gene)))
        counts = {len(value) for value in self._lengths if not isinstance(value, int)}
        if len(counts) > 1:
            raise ValueError(f"genes speak of different numbers of fusing layers, {sorted(counts)}: {self}")

    @property
    def _lengths(self) -> tuple[Lengths, ...]:
        return self.query_prompts, self.query_context_prompts, self.fusion_context_prompts, self.mapping_width

    @property
    def layer_count(self) -> int | None:
        """Fusing layers, where a gene differs between layers or directions; None where any number will do."""
        return next((len(value) for value in self._lengths if not isinstance(value, int)), None)

    def at(self, index: int) -> tuple[Sizes, Sizes]:
        """Both directions, image → text and text → image, of a fusing layer, counted from the first one."""
        image_to_text, text_to_image = (
            Sizes(*(value if isinstance(value, int) else value[index][direction] for value in self._lengths))
            for direction in range(len(DIRECTIONS))
        )
        return image_to_text, text_to_image

    def as_dict(self) -> dict[str, int | list[list[int]]]:
        """Genes by name, as JSON has them."""
        values: dict[str, int | list[list[int]]] = {"fusion_layer": self.fusion_layer}
        for gene, value in zip(GENES[1:], self._lengths, strict=True):
            values[gene] = value if isinstance(value, int) else [list(pair) for pair in value]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Architecture":
        """What `as_dict` gave."""
        return cls(**values)

    def __lt__(self, other: object) -> bool:
        """By L_f, then by the other genes in their order."""
        if not isinstance(other, Architecture):
            return NotImplemented
        return self._order < other._order

    @property
    def _order(self) -> tuple[int | tuple[int, ...], ...]:
        flat = ((value,) if isinstance(value, int) else tuple(itertools.chain(*value)) for value in self._lengths)
        return self.fusion_layer, *flat

    def __str__(self) -> str:
        names = ("M_qp", "M_qcp", "M_fcp", "h")
        genes = (f"{name}={shown(value)}" for name, value in zip(names, self._lengths, strict=True))
        return " ".join([f"L_f={self.fusion_layer}", *genes])


def _canonical(value: Lengths) -> Lengths:
    """As tuples, and one number where all are the same; lists, as JSON has them, are taken too."""
    if isinstance(value, int):
        return value
    pairs = tuple((int(first), int(second)) for first, second in value)
    different = set(itertools.chain(*pairs))
    return different.pop() if len(different) == 1 else pairs


def shown(value: Lengths) -> str:
    """A gene for people: `4`; `4,8` where layers differ; `4/8` where directions do; `4/8,2/2` where both do."""
    if isinstance(value, int):
        return str(value)
    if all(first == second for first, second in value):
        return ",".join(str(first) for first, _ in value)
    texts = [f"{first}/{second}" for first, second in value]
    return texts[0] if len(set(texts)) == 1 else ",".join(texts)


GENES: tuple[str, ...] = tuple(entry.name for entry in fields(Architecture))
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
class Variable:
    """One thing that is chosen: a gene, or what it is in one fusing layer, in one direction, or in both.

    Args:
        gene: Which.
        choices: Allowed values, ascending.
        layer: Of the shallower encoder, counted from 0; None where all fusing layers share it. It is chosen in vain,
            and not part of the architecture, where fusion starts behind that layer.
        direction: Index into `DIRECTIONS`; None where both share it.
    """

    gene: str
    choices: tuple[int, ...]
    layer: int | None = None
    direction: int | None = None

    @cached_property
    def name(self) -> str:
        """For instance `mapping_width.layer_4.image_to_text`."""
        parts = [self.gene]
        if self.layer is not None:
            parts.append(f"layer_{self.layer}")
        if self.direction is not None:
            parts.append(DIRECTIONS[self.direction])
        return ".".join(parts)

    def is_active(self, fusion_layer: int) -> bool:
        """Whether an architecture that starts to fuse there has it."""
        return self.layer is None or self.layer >= fusion_layer


@dataclass(frozen=True)
class SearchSpace:
    """The values that each gene may take, ascending and without repetition, and what it has a value for.

    Args:
        choices: Gene name → allowed values, for exactly the genes in `GENES`.
        per: Gene name → whether it is shared by the model (those that are not named), or free.
        depth: Layers of the shallower encoder; only needed where a gene is free.

    Raises:
        ValueError: If a gene is missing, unknown, empty, not ascending or below what PMF allows, if `fusion_layer` is
            to be free, or if the depth is needed and missing, or leaves no layer to fuse.
    """

    choices: Mapping[str, tuple[int, ...]]
    per: Mapping[str, Per] = field(default_factory=dict)
    depth: int | None = None

    def __post_init__(self) -> None:
        if set(self.choices) != set(GENES):
            raise ValueError(f"the genes of a space are {list(GENES)}, got {sorted(self.choices)}")
        for gene, values in self.choices.items():
            if not values or list(values) != sorted(set(values)) or values[0] < SMALLEST_LEGAL[gene]:
                raise ValueError(
                    f"{gene}: values must be ascending, distinct and at least {SMALLEST_LEGAL[gene]}, "
                    f"got {list(values)}"
                )
        free = {gene: per for gene, per in self.per.items() if per != "model"}
        object.__setattr__(self, "per", free)
        if not set(free) <= set(GENES[1:]) or not set(free.values()) <= set(PER):
            raise ValueError(f"only {list(GENES[1:])} can be free, per one of {list(PER)}; got {free}")
        if free and (self.depth is None or self.depth <= self.choices["fusion_layer"][-1]):
            raise ValueError(
                f"{', '.join(free)}: free, so the depth must be given, above the latest fusion layer, got {self.depth}"
            )

    @cached_property
    def variables(self) -> tuple[Variable, ...]:
        """Everything that is chosen: `fusion_layer`, then gene by gene, layer by layer, direction by direction."""
        chosen = [Variable("fusion_layer", self.choices["fusion_layer"])]
        for gene in GENES[1:]:
            per = self.per.get(gene, "model")
            layers = self._layers if "layer" in per else [None]
            directions = range(len(DIRECTIONS)) if "direction" in per else [None]
            chosen += [
                Variable(gene, self.choices[gene], layer, direction)
                for layer, direction in itertools.product(layers, directions)
            ]
        return tuple(chosen)

    @property
    def _layers(self) -> range:
        """Layers of the shallower encoder that can be fusing layers."""
        assert self.depth is not None
        return range(self.choices["fusion_layer"][0], self.depth)

    def encode(self, architecture: Architecture) -> dict[str, int]:
        """The architecture as values of the variables that it has, by their names.

        Raises:
            ValueError: If it is not in the space.
        """
        values = self._read(architecture)
        if values is None:
            raise ValueError(f"{architecture} is not in the space")
        return values

    def _read(self, architecture: Architecture) -> dict[str, int] | None:
        first = architecture.fusion_layer
        count = None if self.depth is None else self.depth - first
        if first not in self.choices["fusion_layer"] or architecture.layer_count not in (None, count):
            return None
        values = {"fusion_layer": first}
        for variable in self.variables[1:]:
            if variable.is_active(first):
                value: Lengths = getattr(architecture, variable.gene)
                if not isinstance(value, int):
                    index = 0 if variable.layer is None else variable.layer - first
                    value = value[index][variable.direction or 0]
                if value not in variable.choices:
                    return None
                values[variable.name] = value
        return values if self.decode(values) == architecture else None

    def decode(self, values: Mapping[str, int]) -> Architecture:
        """The architecture with these values of variables; those that it does not have may be missing.

        Raises:
            KeyError: If one that it has is missing.
        """
        first = values["fusion_layer"]
        genes: list[Lengths] = []
        for gene in GENES[1:]:
            if gene not in self.per:
                genes.append(values[gene])
                continue
            sites = {
                (variable.layer, variable.direction): values[variable.name]
                for variable in self._of_gene[gene]
                if variable.is_active(first)
            }
            has_layers, has_directions = "layer" in self.per[gene], "direction" in self.per[gene]
            assert self.depth is not None
            genes.append(
                tuple(
                    (
                        sites[layer if has_layers else None, 0 if has_directions else None],
                        sites[layer if has_layers else None, 1 if has_directions else None],
                    )
                    for layer in range(first, self.depth)
                )
            )
        return Architecture(first, *genes)

    @cached_property
    def _of_gene(self) -> Mapping[str, list[Variable]]:
        return {gene: [variable for variable in self.variables if variable.gene == gene] for gene in GENES}

    @property
    def size(self) -> int:
        """How many architectures the space holds."""
        return sum(
            math.prod(len(variable.choices) for variable in self.variables[1:] if variable.is_active(fusion_layer))
            for fusion_layer in self.choices["fusion_layer"]
        )

    @property
    def largest(self) -> Architecture:
        """Earliest fusion, most prompts, widest mapping: contains every other architecture as a prefix slice."""
        return Architecture(self.choices["fusion_layer"][0], *(self.choices[gene][-1] for gene in GENES[1:]))

    def largest_of(self, fits: Callable[[Architecture], bool]) -> Architecture | None:
        """The largest that fits, of those whose genes all stand at the same share of their choices; None if none does.

        Where two start to fuse in different layers, and neither contains the other, it is the one with longer prompts.
        """
        for level in range(_LEVELS, -1, -1):
            sizes = [self.choices[gene][round(level / _LEVELS * (len(self.choices[gene]) - 1))] for gene in GENES[1:]]
            for fusion_layer in self.choices["fusion_layer"]:
                candidate = Architecture(fusion_layer, *sizes)
                if fits(candidate):
                    return candidate
        return None

    @property
    def smallest(self) -> Architecture:
        """Latest fusion, fewest prompts, narrowest mapping."""
        return Architecture(self.choices["fusion_layer"][-1], *(self.choices[gene][0] for gene in GENES[1:]))

    def __contains__(self, architecture: object) -> bool:
        return isinstance(architecture, Architecture) and self._read(architecture) is not None

    def __iter__(self) -> Iterator[Architecture]:
        for fusion_layer in self.choices["fusion_layer"]:
            active = [variable for variable in self.variables[1:] if variable.is_active(fusion_layer)]
            names = [variable.name for variable in active]
            for values in itertools.product(*(variable.choices for variable in active)):
                yield self.decode({"fusion_layer": fusion_layer, **dict(zip(names, values, strict=True))})

    def sample(self, rng: random.Random) -> Architecture:
        """Draw every variable uniformly."""
        return self.decode({variable.name: rng.choice(variable.choices) for variable in self.variables})

    def mutate(self, architecture: Architecture, rng: random.Random, probability: float) -> Architecture:
        """Redraw each variable with the given probability; those that it did not have and now has are drawn."""
        values = self.encode(architecture)
        return self.decode(
            {
                variable.name: rng.choice(variable.choices)
                if rng.random() < probability or variable.name not in values
                else values[variable.name]
                for variable in self.variables
            }
        )

    def neighbour(self, architecture: Architecture, rng: random.Random) -> Architecture:
        """Change one variable that the architecture has to another value; those that it thereby gets are drawn."""
        values = self.encode(architecture)
        changeable = [variable for variable in self.variables if variable.name in values and len(variable.choices) > 1]
        if not changeable:
            return architecture
        chosen = rng.choice(changeable)
        others = [value for value in chosen.choices if value != values[chosen.name]]
        drawn = {variable.name: rng.choice(variable.choices) for variable in self.variables}
        return self.decode(drawn | values | {chosen.name: rng.choice(others)})

    def cross(self, first: Architecture, second: Architecture, rng: random.Random) -> Architecture:
        """Take each variable from one of two parents, uniformly; from the one that has it where only one does."""
        parents = self.encode(first), self.encode(second)
        values = {}
        for variable in self.variables:
            there = [parent[variable.name] for parent in parents if variable.name in parent]
            # One that neither has is in vain: L_f is that of a parent.
            values[variable.name] = rng.choice(there or variable.choices)
        return self.decode(values)
