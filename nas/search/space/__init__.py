"""What can be chosen: architectures, their genes, and the space of them."""

from nas.search.space.architecture import (
    DIRECTIONS,
    MODALITIES,
    PER,
    RAW,
    Architecture,
    EncoderSizes,
    EntryLayers,
    Gene,
    GeneValue,
    Per,
    PerLayer,
    format_gene,
)
from nas.search.space.space import SearchSpace, Variable

__all__ = [
    "DIRECTIONS",
    "MODALITIES",
    "PER",
    "RAW",
    "Architecture",
    "EncoderSizes",
    "EntryLayers",
    "Gene",
    "GeneValue",
    "Per",
    "PerLayer",
    "SearchSpace",
    "Variable",
    "format_gene",
]
