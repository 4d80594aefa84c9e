"""What can be searched: architectures, their genes, and search spaces."""

from nas.search.space.architecture import (
    MODALITIES,
    RAW,
    WHOLE,
    AffineMemory,
    Architecture,
    EncoderSizes,
    EntryLayers,
)
from nas.search.space.gene import (
    DIRECTIONS,
    GRANULARITIES,
    MAX_LAYERS,
    Gene,
    GeneValue,
    Granularity,
    PerLayer,
    PlainValue,
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
    "WHOLE",
    "AffineMemory",
    "Architecture",
    "EncoderSizes",
    "EntryLayers",
    "Gene",
    "GeneValue",
    "Granularity",
    "PerLayer",
    "PlainValue",
    "SearchSpace",
    "Variable",
    "format_gene",
]
