"""Architectures: the genes of a fusion family, and one choice of their values. No torch here.

Every fusion family has genes of its own, in a subclass of `Architecture` beside its model ; PMF's are
five. A gene has one value for the whole model, as the papers have them, or may be free in every layer, in both
directions, or both, as AutoFormer's (Chen et al., ICCV 2021) are in every layer.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import total_ordering
from typing import Any, ClassVar, Literal, NamedTuple, Self, cast

from nas.search.space.families import load_architecture_class

PerLayer = tuple[tuple[int, int], ...]
GeneValue = int | PerLayer
"""A gene of an architecture: one value for the whole model, or a pair for every layer that has it, the first one first:
image → text and text → image; both are equal where a family has no directions."""

Per = Literal["model", "layer", "direction", "layer_and_direction"]
PER: tuple[Per, ...] = ("model", "layer", "direction", "layer_and_direction")
"""What a gene of a space has a value for."""

DIRECTIONS = ("image_to_text", "text_to_image")


@dataclass(frozen=True)
class EncoderSizes:
    """What a family's default architecture depends on: layers and hidden widths of both encoders."""

    image_layers: int
    text_layers: int
    image_hidden_size: int
    text_hidden_size: int

    @property
    def shallower(self) -> int:
        """Layers of the encoder that has fewer."""
        return min(self.image_layers, self.text_layers)


MODALITIES = ("image", "text")

RAW = -1
"""In place of a layer: pixel values and token ids, where an encoder's own embedding is trained."""


class EntryLayers(NamedTuple):
    """Layers of both encoders whose inputs a model starts from; everything below is a constant of the data.

    The number of layers itself stands for what comes out of the last; None for an encoder that is not used.
    """

    image: int | None
    text: int | None


@dataclass(frozen=True)
class Gene:
    """One thing that a family lets be chosen.

    Args:
        name: Of the key in a search file, and of the field of the architecture.
        symbol: For people.
        smallest: The least value that it can have in any model of the family.
        per: What it can have values for.
        is_layer: Whether it is the layer at which something starts; a lower one is a larger model. At most one gene of
            a family, the first, which is then always the model's.
    """

    name: str
    symbol: str
    smallest: int
    per: tuple[Per, ...] = ("model",)
    is_layer: bool = False


@total_ordering
class Architecture(ABC):
    """One architecture of a family; hashable. Two ways to write one are equal: only what it uses is in it.

    Subclasses are frozen dataclasses whose fields are their `genes`, in that order.

    Raises:
        ValueError: If genes that differ between layers do so for different numbers of layers.
    """

    family: ClassVar[str]
    """The family's name in search files."""
    title: ClassVar[str]
    """Its name for people."""
    source: ClassVar[str]
    """What it is and where it comes from, in one sentence."""
    genes: ClassVar[tuple[Gene, ...]]
    """What may be chosen."""
    layers_counted: ClassVar[str] = "of the shallower encoder"
    """Which layers the layer gene counts, for messages; `num_layers` has their number."""
    trains: ClassVar[tuple[str, ...]] = ()
    """Which encoders' weights are trained: `image`, `text`."""
    reads_attention: ClassVar[bool] = False
    """Whether a model makes use of what data rows attend to in themselves, where that is stored."""

    def __post_init__(self) -> None:
        for gene in self.genes:
            if not gene.is_layer:
                object.__setattr__(self, gene.name, _canonical(getattr(self, gene.name)))
        counts = {len(value) for value in self.lengths if not isinstance(value, int)}
        if len(counts) > 1:
            raise ValueError(f"genes speak of different numbers of layers, {sorted(counts)}: {self}")

    @classmethod
    @abstractmethod
    def default(cls, sizes: EncoderSizes) -> Self:
        """The paper's, for two encoders."""

    @classmethod
    def num_layers(cls, sizes: EncoderSizes) -> int:
        """Layers that the layer gene counts; where a gene is free, it is so in those from there on."""
        return sizes.shallower

    def entry_layers(self, sizes: EncoderSizes) -> EntryLayers:
        """Where a model starts to compute; depends on the layer gene alone. By default it reads what it trains."""
        del sizes
        return EntryLayers(*(RAW if modality in self.trains else None for modality in MODALITIES))

    def prompted_layers(self, sizes: EncoderSizes) -> int:
        """n, the layers that each have prompts or mappings: those above amplify what an early one does."""
        del sizes
        return 1

    @classmethod
    def gene_names(cls) -> tuple[str, ...]:
        """In the order of the fields."""
        return tuple(gene.name for gene in cls.genes)

    @classmethod
    def layer_gene(cls) -> Gene | None:
        """The one that says at which layer something starts."""
        return cls.genes[0] if cls.genes and cls.genes[0].is_layer else None

    @property
    def first_layer(self) -> int:
        """Value of the layer gene; 0 where a family has none."""
        gene = self.layer_gene()
        return 0 if gene is None else int(getattr(self, gene.name))

    @property
    def lengths(self) -> tuple[GeneValue, ...]:
        """Values of the other genes."""
        return tuple(getattr(self, gene.name) for gene in self.genes if not gene.is_layer)

    @property
    def layer_count(self) -> int | None:
        """Layers, where a gene differs between layers or directions; None where any number will do."""
        return next((len(value) for value in self.lengths if not isinstance(value, int)), None)

    def value_at(self, name: str, index: int) -> tuple[int, int]:
        """A gene in both directions in one layer, counted from the first that has it."""
        value: GeneValue = getattr(self, name)
        return (value, value) if isinstance(value, int) else value[index]

    def values(self) -> dict[str, int | list[list[int]]]:
        """Genes by name, as JSON has them."""
        values = ((gene.name, getattr(self, gene.name)) for gene in self.genes)
        return {name: value if isinstance(value, int) else [list(pair) for pair in value] for name, value in values}

    def as_dict(self) -> dict[str, Any]:
        """The family and the genes, as JSON has them."""
        return {"family": self.family, **self.values()}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "Architecture":
        """What `as_dict` gave.

        Raises:
            KeyError: If there is no such family.
            TypeError: If genes are missing or unknown.
        """
        genes = dict(values)
        build = cast(Callable[..., Architecture], load_architecture_class(genes.pop("family")))
        return build(**genes)

    def __lt__(self, other: object) -> bool:
        """By the layer gene, then by the other genes in their order; families by name."""
        if not isinstance(other, Architecture):
            return NotImplemented
        return self._order < other._order

    @property
    def _order(self) -> tuple[Any, ...]:
        flat = ((value,) if isinstance(value, int) else tuple(itertools.chain(*value)) for value in self.lengths)
        return self.family, self.first_layer, *flat

    def __str__(self) -> str:
        return " ".join(f"{gene.symbol}={format_gene(getattr(self, gene.name))}" for gene in self.genes) or self.family


def _canonical(value: GeneValue) -> GeneValue:
    """As tuples, and one number where all are the same; lists, as JSON has them, are taken too."""
    if isinstance(value, int):
        return value
    pairs = tuple((int(first), int(second)) for first, second in value)
    different = set(itertools.chain(*pairs))
    return different.pop() if len(different) == 1 else pairs


def format_gene(value: GeneValue) -> str:
    """A gene for people: `4`; `4,8` where layers differ; `4/8` where directions do; `4/8,2/2` where both do."""
    if isinstance(value, int):
        return str(value)
    if all(first == second for first, second in value):
        return ",".join(str(first) for first, _ in value)
    texts = [f"{first}/{second}" for first, second in value]
    return texts[0] if len(set(texts)) == 1 else ",".join(texts)
