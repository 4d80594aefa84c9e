"""What can be searched: architectures, their genes, and search spaces."""

from nas.search.space.architecture import (
    DIRECTIONS,
    GRANULARITIES,
    MAX_LAYERS,
    MODALITIES,
    RAW,
    AffineMemory,
    Architecture,
    EncoderSizes,
    EntryLayers,
    Gene,
    GeneValue,
    Granularity,
    PerLayer,
    format_gene,
)
from nas.search.space.space import SearchSpace
from nas.search.space.variables import Variable

__all__ = [
    "DIRECTIONS",
    "GRANULARITIES",
    "MAX_LAYERS",
    "MODALITIES",
    "RAW",
    "AffineMemory",
    "Architecture",
    "EncoderSizes",
    "EntryLayers",
    "Gene",
    "GeneValue",
    "Granularity",
    "PerLayer",
    "SearchSpace",
    "Variable",
    "format_gene",
]
