"""Architectures: the genes of a fusion family, and one choice of their values. Imports no torch.

Every fusion family defines its genes in a subclass of `Architecture` in the family's folder. A gene has one value for
the whole model, as in the papers, or separate values per layer, per direction, or both, as AutoFormer's genes (Chen et
al., ICCV 2021) have per layer.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, total_ordering
from typing import Any, ClassVar, NamedTuple, Self, cast

from nas.search.pretraining import Objective
from nas.search.space.family_registry import load_architecture_class
from nas.search.space.gene import Gene, GeneValue, PlainValue, canonical

MODALITIES = ("image", "text")

RAW = -1
"""Used in place of a layer index for pixel values and token ids, the input of an encoder's own embedding."""
WHOLE = -2
"""Used in place of the first layer that a worker computes where it computes all of a frozen encoder, from `RAW` on."""


@dataclass(frozen=True)
class EncoderSizes:
    """The sizes of both encoders, from which a family derives its default architecture."""

    image_layers: int
    text_layers: int
    image_hidden_size: int
    text_hidden_size: int
    pool_by_mean: tuple[bool, bool] = (False, False)
    """Whether what each encoder's own pooling returns is the mean of its tokens."""

    @property
    def shallower(self) -> int:
        """The number of layers of the shallower encoder."""
        return min(self.image_layers, self.text_layers)


class EntryLayers(NamedTuple):
    """The layers of both encoders whose inputs a model reads; everything below is a constant of the data.

    The number of layers itself stands for the output of the last layer; None for an unused encoder.
    """

    image: int | None
    text: int | None


@dataclass(frozen=True)
class AffineMemory:
    """A set of architectures whose training steps allocate the same storages, of sizes affine in some genes.

    Args:
        smallest: The smallest architecture of the set, which identifies it.
        steps: The genes that vary in the set, and their distance from the smallest value to a second one to trace.
    """

    smallest: "Architecture"
    steps: Mapping[str, int]


@total_ordering
class Architecture(ABC):
    """One architecture of a family; hashable, and equal regardless of the way its values are written.

    Subclasses are frozen dataclasses whose fields are their `genes`, in that order.

    Raises:
        ValueError: If genes with values per layer have different numbers of layers.
    """

    family: ClassVar[str]
    """The family's name in search files."""
    title: ClassVar[str]
    """The family's name in tables and model cards."""
    source: ClassVar[str]
    """One sentence about the method and its publication."""
    genes: ClassVar[tuple[Gene, ...]]
    """The searchable genes, the layer gene first."""
    layers_counted: ClassVar[str] = "of the shallower encoder"
    """The layers that the layer gene counts, for messages; `num_layers` returns their number."""
    trains: ClassVar[tuple[str, ...]] = ()
    """The encoders whose weights are trained: `image`, `text`."""
    reads_attention: ClassVar[bool] = False
    """Whether a model can use the stored self-attention output of the data tokens."""
    reads_class_texts: ClassVar[bool] = False
    """Whether a model reads the texts of the classes, from their token ids on, whatever it reads of the samples' texts.

    Both encoders are then those of one contrastive checkpoint, with their projections into one space."""
    pretraining_objectives: ClassVar[tuple[Objective, ...]] = ()
    """The objectives on which models can be pretrained; see `nas.models.fusion.pretraining`. With `masked_language`,
    models read token ids."""
    pretrains_on_texts: ClassVar[bool] = False
    """Whether a pretraining can begin with steps on texts alone (`PretrainingModel.text_token_logits`)."""
    embeds_pairs: ClassVar[bool] = False
    """Whether a model embeds pictures and texts apart from each other, as `nas.models.fusion.embeddings` describes, so
    that it can be searched for image-text retrieval. It is then built with `num_classes=0` and without classifiers."""
    retrieval_values: ClassVar[Mapping[str, int]] = {}
    """The values of genes that models for retrieval have, where others do not read both pictures and texts."""

    def __post_init__(self) -> None:
        for gene in self.genes:
            if not gene.is_layer:
                object.__setattr__(self, gene.name, canonical(getattr(self, gene.name)))
        for name, condition in _conditions(type(self)).items():
            if not condition.holds(self):
                object.__setattr__(self, name, condition.gene.smallest)
        counts = {len(value) for value in self._other_values if not isinstance(value, int)}
        if len(counts) > 1:
            raise ValueError(
                f"{self}: genes have different numbers of layers; expected one number, got {sorted(counts)}"
            )

    @classmethod
    @abstractmethod
    def default(cls, sizes: EncoderSizes) -> Self:
        """Return the paper's architecture for two encoders."""

    @classmethod
    def default_for_retrieval(cls, sizes: EncoderSizes) -> Self:
        """Return the paper's architecture with the values of genes that models for retrieval have."""
        default: Any = cls.default(sizes)  # every architecture is a dataclass
        replaced: Self = replace(default, **cls.retrieval_values)
        return replaced

    @classmethod
    def default_choices(cls, sizes: EncoderSizes) -> dict[str, tuple[int, ...]]:
        """Return the choices of every gene in a search file without `space`: values around the default.

        These are the default's first layer and its neighbors, and a quarter, half, all and twice of any other value; 0
        takes the place of the quarter where the gene allows it. Of a gene with names these are all its values.
        """
        default, last = cls.default(sizes), cls.num_layers(sizes) - 1
        choices = {}
        for gene in cls.genes:
            value = getattr(default, gene.name)
            if gene.names:
                near = set(range(len(gene.names)))
            elif gene.is_layer:
                near = {layer for layer in (value - 1, value, value + 1) if 0 <= layer <= last}
            else:
                near = {0 if gene.smallest == 0 else max(value // 4, 1), max(value // 2, 1), value, 2 * value}
            choices[gene.name] = tuple(sorted(near))
        return choices

    @classmethod
    def num_layers(cls, sizes: EncoderSizes) -> int:
        """Return the number of layers that the layer gene counts; genes per layer have values from that layer on."""
        return sizes.shallower

    @classmethod
    def largest_values(cls, sizes: EncoderSizes) -> dict[str, int]:
        """Return the largest value of each gene that two encoders bound, which has one value for the whole model.

        By default this is the last layer for the layer gene.
        """
        gene = cls.layer_gene()
        return {} if gene is None else {gene.name: cls.num_layers(sizes) - 1}

    def entry_layers(self, sizes: EncoderSizes) -> EntryLayers:
        """Return the layers whose inputs a model reads.

        They depend only on the layer gene and on genes with names. By default a model reads the raw input of every
        encoder that it trains.
        """
        del sizes
        return EntryLayers(*(RAW if modality in self.trains else None for modality in MODALITIES))

    def prompted_layers(self, sizes: EncoderSizes) -> int:
        """Return n, the number of layers with prompts or mappings; later layers amplify the effect of early ones."""
        del sizes
        return 1

    def context_length(self) -> int:
        """Return the number of learned tokens before the name of the class in the texts of the classes."""
        return 0

    def affine_memory(self) -> AffineMemory | None:
        """Return the set of architectures whose peak memory is interpolated together with this one's.

        By default None: the memory of each architecture is traced.
        """
        return None

    @classmethod
    def gene_names(cls) -> tuple[str, ...]:
        """Return the names of all genes, in the order of the fields."""
        return tuple(gene.name for gene in cls.genes)

    @classmethod
    def layer_gene(cls) -> Gene | None:
        """Return the layer gene, or None if the family has none."""
        return cls.genes[0] if cls.genes and cls.genes[0].is_layer else None

    def has_meaning(self, name: str) -> bool:
        """Return whether a gene has a meaning beside the values of the others (`Gene.only_with`)."""
        condition = _conditions(type(self)).get(name)
        return condition is None or condition.holds(self)

    @property
    def first_layer(self) -> int:
        """The value of the layer gene; 0 if the family has none."""
        gene = self.layer_gene()
        return 0 if gene is None else int(getattr(self, gene.name))

    @property
    def _other_values(self) -> tuple[GeneValue, ...]:
        """The values of all genes except the layer gene."""
        return tuple(getattr(self, gene.name) for gene in self.genes if not gene.is_layer)

    @property
    def layer_count(self) -> int | None:
        """The number of layers with values of their own; None if every gene has one value for the whole model."""
        return next((len(value) for value in self._other_values if not isinstance(value, int)), None)

    def value_at(self, name: str, index: int) -> tuple[int, int]:
        """Return a gene's values in both directions in one layer, counted from the first layer that has the gene."""
        value: GeneValue = getattr(self, name)
        return (value, value) if isinstance(value, int) else value[index]

    def values(self) -> dict[str, PlainValue]:
        """Return the genes by name, as JSON values."""
        return {gene.name: gene.plain(getattr(self, gene.name)) for gene in self.genes}

    def texts(self) -> dict[str, str]:
        """Return the genes by name, as text."""
        return {gene.name: gene.format(getattr(self, gene.name)) for gene in self.genes}

    @property
    def stated_genes(self) -> tuple[Gene, ...]:
        """The genes that messages and seeds state: all but alternatives that are the paper's, the first ones."""
        return tuple(gene for gene in self.genes if not (gene.names and getattr(self, gene.name) == 0))

    def as_dict(self) -> dict[str, Any]:
        """Return the family and the genes, as JSON values."""
        return {"family": self.family, **self.values()}

    def stated(self) -> dict[str, Any]:
        """Return the family and the stated genes, as JSON values.

        They identify an architecture, and stay the same when its family gets further genes with names.
        """
        values = self.values()
        return {"family": self.family, **{gene.name: values[gene.name] for gene in self.stated_genes}}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "Architecture":
        """Build the architecture that `as_dict` describes.

        Genes with names may be missing; they then have their first value.

        Raises:
            KeyError: If the family is not registered.
            TypeError: If genes are missing or unknown.
            ValueError: If a gene has a value that no architecture has.
        """
        genes = dict(values)
        architecture_class = load_architecture_class(genes.pop("family"))
        for gene in architecture_class.genes:
            if gene.name in genes:
                genes[gene.name] = gene.parse(genes[gene.name])
        return cast(Callable[..., Architecture], architecture_class)(**genes)

    def __lt__(self, other: object) -> bool:
        """Compare by family, then by the layer gene, then by the other genes in their order."""
        if not isinstance(other, Architecture):
            return NotImplemented
        return self._order < other._order

    @property
    def _order(self) -> tuple[Any, ...]:
        flat = ((value,) if isinstance(value, int) else tuple(itertools.chain(*value)) for value in self._other_values)
        return self.family, self.first_layer, *flat

    def summary(self) -> str:
        """Return the genes in plain words: `prompt layer 2, prompts 4`."""
        texts = self.texts()
        return ", ".join(f"{gene.name.replace('_', ' ')} {texts[gene.name]}" for gene in self.stated_genes)

    def __str__(self) -> str:
        texts = self.texts()
        return " ".join(f"{gene.symbol}={texts[gene.name]}" for gene in self.stated_genes) or self.family


@dataclass(frozen=True)
class _Condition:
    """A gene that has a meaning only beside some values of another (`Gene.only_with`)."""

    gene: Gene
    other: Gene
    values: frozenset[int]

    def holds(self, architecture: Architecture) -> bool:
        return getattr(architecture, self.other.name) in self.values


@cache
def _conditions(architecture_class: type[Architecture]) -> dict[str, _Condition]:
    """Return the conditions of genes, by the names of the genes."""
    genes = {gene.name: gene for gene in architecture_class.genes}
    found = {}
    for gene in architecture_class.genes:
        if gene.only_with is not None:
            other = genes[gene.only_with[0]]
            values = frozenset(map(other.names.index, gene.only_with[1]))
            found[gene.name] = _Condition(gene, other, values | {other.every})  # a supernet serves all of them
    return found
