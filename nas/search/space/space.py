"""Search spaces: the values that each gene may take, and the variables that a strategy chooses."""

import itertools
import math
import random
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

from nas.search.space.architecture import DIRECTIONS, Architecture, GeneValue, Per

_LEVELS = 16


@dataclass(frozen=True)
class Variable:
    """One thing that is chosen: a gene, or what it is in one fusing layer, in one direction, or in both.

    Args:
        gene: Which.
        choices: Allowed values, ascending.
        layer: Of those that the family's layer gene counts, from 0; None where all share it. It is chosen in vain, and
            not part of the architecture, where the layer gene says a later one.
        direction: Index into `DIRECTIONS`; None where both share it.
        is_layer: Whether it is the layer gene.
    """

    gene: str
    choices: tuple[int, ...]
    layer: int | None = None
    direction: int | None = None
    is_layer: bool = False

    @cached_property
    def name(self) -> str:
        """For instance `mapping_width.layer_4.image_to_text`."""
        parts = [self.gene]
        if self.layer is not None:
            parts.append(f"layer_{self.layer}")
        if self.direction is not None:
            parts.append(DIRECTIONS[self.direction])
        return ".".join(parts)

    def is_active(self, first_layer: int) -> bool:
        """Whether an architecture whose layer gene says this has it."""
        return self.layer is None or self.layer >= first_layer


@dataclass(frozen=True)
class SearchSpace:
    """The values that each gene may take, ascending and without repetition, and what it has a value for.

    Args:
        architecture_class: Architectures of one family.
        choices: Gene name → allowed values, for exactly the family's genes.
        per: Gene name → whether it is shared by the model (those that are not named), or free.
        num_layers: Layers that the family's layer gene counts (`Architecture.num_layers`); only needed where a gene is
        free.

    Raises:
        ValueError: If a gene is missing, unknown, empty, not ascending or below what the family allows, if one is to be
            free that cannot be, or if the num_layers is needed and missing, or leaves no layer.
    """

    architecture_class: type[Architecture]
    choices: Mapping[str, tuple[int, ...]]
    per: Mapping[str, Per] = field(default_factory=dict)
    num_layers: int | None = None

    def __post_init__(self) -> None:
        genes = {gene.name: gene for gene in self.architecture_class.genes}
        if set(self.choices) != set(genes):
            raise ValueError(f"the genes of a space are {list(genes)}, got {sorted(self.choices)}")
        for name, values in self.choices.items():
            smallest = genes[name].smallest
            if not values or list(values) != sorted(set(values)) or values[0] < smallest:
                raise ValueError(
                    f"{name}: values must be ascending, distinct and at least {smallest}, got {list(values)}"
                )
        free = {name: per for name, per in self.per.items() if per != "model"}
        object.__setattr__(self, "per", free)
        if any(name not in genes or per not in genes[name].per for name, per in free.items()):
            allowed = {name: list(gene.per) for name, gene in genes.items() if gene.per != ("model",)}
            raise ValueError(f"only these can be free: {allowed}; got {free}")
        if free and (self.num_layers is None or self.num_layers <= self.first_layers[-1]):
            raise ValueError(
                f"{', '.join(free)}: free, so num_layers must be given, above the latest first layer, "
                f"got {self.num_layers}"
            )

    @classmethod
    def around(cls, architecture: Architecture, num_layers: int) -> "SearchSpace":
        """A small space that holds an architecture: of each gene the values that it has.

        Args:
            architecture: Of any family.
            num_layers: Layers that its layer gene counts.
        """
        choices: dict[str, tuple[int, ...]] = {}
        per: dict[str, Per] = {}
        for gene in architecture.genes:
            value: GeneValue = getattr(architecture, gene.name)
            if isinstance(value, int):
                choices[gene.name] = (value,)
            else:
                choices[gene.name] = tuple(sorted(set(itertools.chain(*value))))
                per[gene.name] = gene.per[-1]
        return cls(type(architecture), choices, per, num_layers)

    @property
    def first_layers(self) -> tuple[int, ...]:
        """Values of the family's layer gene; 0 alone where it has none."""
        gene = self.architecture_class.layer_gene()
        return (0,) if gene is None else self.choices[gene.name]

    @cached_property
    def _others(self) -> tuple[str, ...]:
        """Names of the genes but for the layer gene."""
        return tuple(gene.name for gene in self.architecture_class.genes if not gene.is_layer)

    def _with_layer(self, first_layer: int, values: Mapping[str, GeneValue]) -> Architecture:
        """The architecture with this value of the layer gene, where there is one, and these of the others."""
        gene, build = self.architecture_class.layer_gene(), cast(Callable[..., Architecture], self.architecture_class)
        return build(**({} if gene is None else {gene.name: first_layer}), **values)

    @cached_property
    def variables(self) -> tuple[Variable, ...]:
        """Everything that is chosen: the layer gene, then gene by gene, layer by layer, direction by direction."""
        layer_gene = self.architecture_class.layer_gene()
        chosen = [] if layer_gene is None else [Variable(layer_gene.name, self.choices[layer_gene.name], is_layer=True)]
        for gene in self._others:
            per = self.per.get(gene, "model")
            layers = self._layers if "layer" in per else [None]
            directions = range(len(DIRECTIONS)) if "direction" in per else [None]
            chosen += [
                Variable(gene, self.choices[gene], layer, direction)
                for layer, direction in itertools.product(layers, directions)
            ]
        return tuple(chosen)

    @cached_property
    def _free(self) -> tuple[Variable, ...]:
        """Variables but for the layer gene."""
        return tuple(variable for variable in self.variables if not variable.is_layer)

    @property
    def _layers(self) -> range:
        """Layers that an architecture can have genes for."""
        assert self.num_layers is not None
        return range(self.first_layers[0], self.num_layers)

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
        first, layer_gene = architecture.first_layer, self.architecture_class.layer_gene()
        count = None if self.num_layers is None else self.num_layers - first
        if (
            type(architecture) is not self.architecture_class
            or first not in self.first_layers
            or architecture.layer_count not in (None, count)
        ):
            return None
        values = {} if layer_gene is None else {layer_gene.name: first}
        for variable in self._free:
            if variable.is_active(first):
                value: GeneValue = getattr(architecture, variable.gene)
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
        layer_gene = self.architecture_class.layer_gene()
        first = 0 if layer_gene is None else values[layer_gene.name]
        genes: dict[str, GeneValue] = {}
        for gene in self._others:
            if gene not in self.per:
                genes[gene] = values[gene]
                continue
            sites = {
                (variable.layer, variable.direction): values[variable.name]
                for variable in self._of_gene[gene]
                if variable.is_active(first)
            }
            has_layers, has_directions = "layer" in self.per[gene], "direction" in self.per[gene]
            assert self.num_layers is not None
            genes[gene] = tuple(
                (
                    sites[layer if has_layers else None, 0 if has_directions else None],
                    sites[layer if has_layers else None, 1 if has_directions else None],
                )
                for layer in range(first, self.num_layers)
            )
        return self._with_layer(first, genes)

    @cached_property
    def _of_gene(self) -> Mapping[str, list[Variable]]:
        return {gene: [entry for entry in self.variables if entry.gene == gene] for gene in self.choices}

    @property
    def size(self) -> int:
        """How many architectures the space holds."""
        return sum(
            math.prod(len(variable.choices) for variable in self._free if variable.is_active(first))
            for first in self.first_layers
        )

    @property
    def largest(self) -> Architecture:
        """The earliest first layer, most of all else: contains every other architecture as a prefix slice."""
        return self.largest_at(self.first_layers[0])

    def largest_at(self, first_layer: int) -> Architecture:
        """Of those with that first layer."""
        return self._with_layer(first_layer, {gene: self.choices[gene][-1] for gene in self._others})

    def largest_of(self, fits: Callable[[Architecture], bool]) -> Architecture | None:
        """The largest that fits, of those whose genes all stand at the same share of their choices; None if none does.

        Where two have different first layers, and neither contains the other, it is the one with more of all else.
        """
        for level in range(_LEVELS, -1, -1):
            sizes = {
                gene: self.choices[gene][round(level / _LEVELS * (len(self.choices[gene]) - 1))]
                for gene in self._others
            }
            for first in self.first_layers:
                candidate = self._with_layer(first, sizes)
                if fits(candidate):
                    return candidate
        return None

    def shrunken(
        self, architecture: Architecture, rng: random.Random, fits: Callable[[Architecture], bool]
    ) -> Architecture:
        """The architecture with as few values made the smallest, in random order, as make it fit.

        The smallest, if nothing does. Where few fit, a handful is asked for, and not thousands that are drawn.
        """
        least = {
            variable.name: self.smallest.first_layer if variable.is_layer else variable.choices[0]
            for variable in self.variables
        }
        values = self.encode(architecture)
        names = list(values)
        rng.shuffle(names)

        def smaller(count: int) -> Architecture:
            return self.decode(values | {name: least[name] for name in names[:count]})

        # Every gene only adds to what is bounded, so that who is smaller than one that fits does as well.
        return smaller(bisect_left(range(len(names)), True, key=lambda count: fits(smaller(count))))

    @property
    def smallest(self) -> Architecture:
        """The latest first layer, least of all else."""
        return self._with_layer(self.first_layers[-1], {gene: self.choices[gene][0] for gene in self._others})

    def __contains__(self, architecture: object) -> bool:
        return isinstance(architecture, Architecture) and self._read(architecture) is not None

    def __iter__(self) -> Iterator[Architecture]:
        layer_gene = self.architecture_class.layer_gene()
        for first in self.first_layers:
            active = [variable for variable in self._free if variable.is_active(first)]
            names = [variable.name for variable in active]
            for values in itertools.product(*(variable.choices for variable in active)):
                chosen = dict(zip(names, values, strict=True))
                yield self.decode(chosen if layer_gene is None else {layer_gene.name: first, **chosen})

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
            # One that neither has is in vain: the first layer is that of a parent.
            values[variable.name] = rng.choice(there or variable.choices)
        return self.decode(values)
