"""What can be chosen: architectures, their genes, and the space of them."""

from nas.search.space.architecture import (
    DIRECTIONS,
    MODALITIES,
    PER,
    RAW,
    Architecture,
    EncoderSizes,
    Gene,
    Lengths,
    Per,
    PerLayer,
    Reads,
    shown,
)
from nas.search.space.space import SearchSpace, Variable

__all__ = [
    "DIRECTIONS",
    "MODALITIES",
    "PER",
    "RAW",
    "Architecture",
    "EncoderSizes",
    "Gene",
    "Lengths",
    "Per",
    "PerLayer",
    "Reads",
    "SearchSpace",
    "Variable",
    "shown",
]
