"""Search spaces: the allowed values of each gene, and the variables that a strategy chooses."""

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import cast

from nas.common.boundary import shown
from nas.search.space.architecture import Architecture
from nas.search.space.gene import DIRECTIONS, GeneValue, Granularity
from nas.search.space.variables import Variable

_LEVELS = 16
"""Steps between the smallest and the largest architecture in `SearchSpace.largest_feasible`."""


@dataclass(frozen=True)
class SearchSpace:
    """The allowed values of each gene, and the granularity at which each gene is chosen.

    Args:
        architecture_class: The architecture class of the fusion family.
        choices: Gene name → allowed values, ascending and distinct, for exactly the genes of the family; genes with
            names may be missing and then have their first value.
        granularity: Gene name → granularity of its values; one value for the whole model where missing.
        num_layers: The number of layers that the layer gene counts (`Architecture.num_layers`); required only if a
            gene has several values per model.

    Raises:
        ValueError: If a gene is missing or unknown; if its values are empty, not ascending or below the family's
            minimum; if a granularity is not supported by the gene; or if `num_layers` is required and is missing or
            leaves no layer.
    """

    architecture_class: type[Architecture]
    choices: Mapping[str, tuple[int, ...]]
    granularity: Mapping[str, Granularity] = field(default_factory=dict)
    num_layers: int | None = None

    def __post_init__(self) -> None:
        genes = {gene.name: gene for gene in self.architecture_class.genes}
        complete = {name: (0,) for name, gene in genes.items() if gene.names} | dict(self.choices)
        in_order = {name: complete[name] for name in (*genes, *complete) if name in complete}
        object.__setattr__(self, "choices", in_order)
        if set(self.choices) != set(genes):
            raise ValueError(f"search space: wrong genes; expected {list(genes)}, got {sorted(self.choices)}")
        for name, values in self.choices.items():
            smallest, largest = genes[name].smallest, genes[name].largest
            if not values or list(values) != sorted(set(values)) or not smallest <= values[0] <= values[-1] <= largest:
                raise ValueError(
                    f"{name}: expected ascending, distinct values of at least {smallest} and at most {largest}, got "
                    f"{shown(list(values))}"
                )
        free = {name: granularity for name, granularity in self.granularity.items() if granularity != "model"}
        object.__setattr__(self, "granularity", free)
        if any(name not in genes or value not in genes[name].granularities for name, value in free.items()):
            allowed = {
                name: list(gene.granularities) for name, gene in genes.items() if gene.granularities != ("model",)
            }
            raise ValueError(f"search space: unsupported granularity; expected any of {allowed}, got {free}")
        if free and (self.num_layers is None or self.num_layers <= self.first_layers[-1]):
            raise ValueError(
                f"{', '.join(free)}: several values per model require num_layers above {self.first_layers[-1]}, the "
                f"latest first layer; got {self.num_layers}"
            )

    @classmethod
    def around(cls, architecture: Architecture, num_layers: int) -> "SearchSpace":
        """Return a small space that contains an architecture: for each gene, the values that occur in it.

        Args:
            architecture: An architecture of any family.
            num_layers: The number of layers that its layer gene counts.
        """
        choices: dict[str, tuple[int, ...]] = {}
        granularity: dict[str, Granularity] = {}
        for gene in architecture.genes:
            value: GeneValue = getattr(architecture, gene.name)
            if isinstance(value, int):
                choices[gene.name] = (value,)
            else:
                choices[gene.name] = tuple(sorted(set(itertools.chain(*value))))
                granularity[gene.name] = gene.granularities[-1]
        return cls(type(architecture), choices, granularity, num_layers)

    def narrowed(self, values: Mapping[str, int]) -> "SearchSpace":
        """Return the space in which some genes have one value each; where it is not allowed, all allowed ones remain.

        Args:
            values: The value of each of these genes; names of other families' genes are ignored.
        """
        kept = {
            name: (values[name],) if values.get(name) in choices else choices for name, choices in self.choices.items()
        }
        return replace(self, choices=kept)

    @property
    def first_layers(self) -> tuple[int, ...]:
        """The allowed values of the family's layer gene; (0,) if the family has none."""
        gene = self.architecture_class.layer_gene()
        return (0,) if gene is None else self.choices[gene.name]

    @cached_property
    def _other_genes(self) -> tuple[str, ...]:
        """The names of all genes except the layer gene."""
        return tuple(gene.name for gene in self.architecture_class.genes if not gene.is_layer)

    @cached_property
    def _named(self) -> frozenset[str]:
        """The genes whose values are alternatives rather than sizes."""
        return frozenset(gene.name for gene in self.architecture_class.genes if gene.names)

    def _build(self, first_layer: int, values: Mapping[str, GeneValue]) -> Architecture:
        """Return the architecture with this value of the layer gene, if the family has one, and these of the others."""
        gene, build = self.architecture_class.layer_gene(), cast(Callable[..., Architecture], self.architecture_class)
        return build(**({} if gene is None else {gene.name: first_layer}), **values)

    @cached_property
    def variables(self) -> tuple[Variable, ...]:
        """All variables: the layer gene, then gene by gene, layer by layer, direction by direction.

        A gene with names is one only where there is a choice.
        """
        layer_gene = self.architecture_class.layer_gene()
        found = [] if layer_gene is None else [Variable(layer_gene.name, self.choices[layer_gene.name], is_layer=True)]
        for gene in self._other_genes:
            if gene in self._named and len(self.choices[gene]) == 1:
                continue
            granularity = self.granularity.get(gene, "model")
            layers = self._layers if "layer" in granularity else [None]
            directions = range(len(DIRECTIONS)) if "direction" in granularity else [None]
            found += [
                Variable(gene, self.choices[gene], layer, direction)
                for layer, direction in itertools.product(layers, directions)
            ]
        return tuple(found)

    @cached_property
    def _other_variables(self) -> tuple[Variable, ...]:
        """All variables except the layer gene."""
        return tuple(variable for variable in self.variables if not variable.is_layer)

    @cached_property
    def _conditional_variables(self) -> tuple[Variable, ...]:
        """The variables of genes that have a meaning only beside some values of others."""
        names = {gene.name for gene in self.architecture_class.genes if gene.only_with}
        return tuple(variable for variable in self.variables if variable.gene in names)

    @cached_property
    def _variables_of_gene(self) -> Mapping[str, list[Variable]]:
        return {gene: [variable for variable in self.variables if variable.gene == gene] for gene in self.choices}

    @property
    def _layers(self) -> range:
        """The layers that an architecture can have gene values for."""
        assert self.num_layers is not None
        return range(self.first_layers[0], self.num_layers)

    def encode(self, architecture: Architecture) -> dict[str, int]:
        """Return the values of the active variables of an architecture, by their names.

        Raises:
            ValueError: If the architecture is not in the space.
        """
        values = self._read(architecture)
        if values is None:
            raise ValueError(f"{architecture} is not in the search space")
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
        for variable in self._other_variables:
            if variable.is_active(first) and architecture.has_meaning(variable.gene):
                value: GeneValue = getattr(architecture, variable.gene)
                if not isinstance(value, int):
                    index = 0 if variable.layer is None else variable.layer - first
                    value = value[index][variable.direction or 0]
                if value not in variable.choices:
                    return None
                values[variable.name] = value
        return values if self.decode(values) == architecture else None

    def decode(self, values: Mapping[str, int]) -> Architecture:
        """Return the architecture with these values of variables; inactive variables may be missing.

        Raises:
            KeyError: If an active variable is missing.
        """
        layer_gene = self.architecture_class.layer_gene()
        first = 0 if layer_gene is None else values[layer_gene.name]
        genes: dict[str, GeneValue] = {}
        missing = {variable.name for variable in self._conditional_variables if variable.name not in values}
        for gene in self._other_genes:
            if gene not in self.granularity:
                has_variable = (gene not in self._named or len(self.choices[gene]) > 1) and gene not in missing
                genes[gene] = values[gene] if has_variable else self.choices[gene][0]
                continue
            sites = {
                (variable.layer, variable.direction): values[variable.name]
                for variable in self._variables_of_gene[gene]
                if variable.is_active(first)
            }
            has_layers, has_directions = "layer" in self.granularity[gene], "direction" in self.granularity[gene]
            assert self.num_layers is not None
            genes[gene] = tuple(
                (
                    sites[layer if has_layers else None, 0 if has_directions else None],
                    sites[layer if has_layers else None, 1 if has_directions else None],
                )
                for layer in range(first, self.num_layers)
            )
        architecture = self._build(first, genes)
        for name in missing:
            if architecture.has_meaning(name):
                raise KeyError(name)
        return architecture

    @property
    def size(self) -> int:
        """The number of architectures in the space."""
        return sum(
            math.prod(
                len(variable.choices)
                for variable in self._other_variables
                if variable.is_active(first) and variable.gene not in kind and architecture.has_meaning(variable.gene)
            )
            for first in self.first_layers
            for kind, architecture in self._of_each_kind(first, self._deciding)
        )

    @cached_property
    def _deciding(self) -> list[str]:
        """The genes that decide whether others have a meaning (`Gene.only_with`)."""
        return list(dict.fromkeys(gene.only_with[0] for gene in self.architecture_class.genes if gene.only_with))

    def _of_each_kind(self, first_layer: int, names: Sequence[str]) -> list[tuple[dict[str, int], Architecture]]:
        """Return each combination of values of some genes, and the largest architecture that has it."""
        largest: dict[str, GeneValue] = {gene: self.choices[gene][-1] for gene in self._other_genes}
        kinds = itertools.product(*(self.choices[name] for name in names))
        named = [dict(zip(names, kind, strict=True)) for kind in kinds]
        return [(kind, self._build(first_layer, largest | kind)) for kind in named]

    @property
    def largest(self) -> Architecture:
        """The architecture with the earliest first layer and the largest values."""
        return self.largest_at(self.first_layers[0])

    def largest_at(self, first_layer: int) -> Architecture:
        """Return the largest architecture with the given first layer."""
        return self._build(first_layer, {gene: self.choices[gene][-1] for gene in self._other_genes})

    @property
    def largest_of_each_kind(self) -> list[Architecture]:
        """The largest architectures, one for each combination of values that are alternatives rather than sizes.

        Every other architecture is smaller than one of these: an alternative is neither smaller nor larger.
        """
        return self.largest_of_each_kind_at(self.first_layers[0])

    def largest_of_each_kind_at(self, first_layer: int) -> list[Architecture]:
        """Return the largest architectures with the given first layer; see `largest_of_each_kind`."""
        names = [gene for gene in self._other_genes if gene in self._named]
        return list(dict.fromkeys(architecture for _, architecture in self._of_each_kind(first_layer, names)))

    @property
    def supernet(self) -> Architecture:
        """The architecture of the supernet, of which all others are slices; see `supernet_at`."""
        return self.supernet_at(self.first_layers[0])

    def supernet_at(self, first_layer: int) -> Architecture:
        """Return the architecture of a supernet with the given first layer.

        It has the largest value of every size, and weights for all alternatives (`Gene.every`) where there is a choice.
        """
        every = {
            gene.name: gene.every
            for gene in self.architecture_class.genes
            if gene.names and len(self.choices[gene.name]) > 1
        }
        return self._build(first_layer, {gene: self.choices[gene][-1] for gene in self._other_genes} | every)

    def largest_feasible(self, is_feasible: Callable[[Architecture], bool]) -> Architecture | None:
        """Return the largest feasible architecture along the diagonal of the space, or None.

        On the diagonal, all genes are at the same relative position among their choices. Between architectures with
        different first layers, neither of which contains the other, larger values of the other genes are preferred.
        """
        for level in range(_LEVELS, -1, -1):
            values = {
                gene: self.choices[gene][round(level / _LEVELS * (len(self.choices[gene]) - 1))]
                for gene in self._other_genes
            }
            for first in self.first_layers:
                candidate = self._build(first, values)
                if is_feasible(candidate):
                    return candidate
        return None

    @property
    def smallest(self) -> Architecture:
        """The architecture with the latest first layer and the smallest values."""
        return self._build(self.first_layers[-1], {gene: self.choices[gene][0] for gene in self._other_genes})

    def sample(self, rng: random.Random) -> Architecture:
        """Draw every variable uniformly."""
        return self.decode({variable.name: rng.choice(variable.choices) for variable in self.variables})

    def __contains__(self, architecture: object) -> bool:
        return isinstance(architecture, Architecture) and self._read(architecture) is not None

    def __iter__(self) -> Iterator[Architecture]:
        layer_gene = self.architecture_class.layer_gene()
        for first in self.first_layers:
            active = [variable for variable in self._other_variables if variable.is_active(first)]
            names = [variable.name for variable in active]
            for values in itertools.product(*(variable.choices for variable in active)):
                chosen = dict(zip(names, values, strict=True))
                architecture = self.decode(chosen if layer_gene is None else {layer_gene.name: first, **chosen})
                # A gene without a meaning has one value, so that every architecture occurs once.
                if all(
                    value == variable.choices[0] or architecture.has_meaning(variable.gene)
                    for variable, value in zip(active, values, strict=True)
                ):
                    yield architecture
