"""What a feature store will hold and how large it will be, known to the byte before anything is computed.

What is kept for every fusion layer L_f of the search space, best first:

- `attention`: tokens at every L_f, and at those with two fusing layers or more also what the data rows attend to among
  themselves in the first of them, which depends on no trained parameter either (half the size of keys and values).
- `every layer`: tokens at every L_f.
- `smallest layer`: tokens at the smallest L_f; those of the others are computed from them whenever they are read.
"""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nas.config import FeaturesConfig
from nas.errors import DataError
from nas.units import format_bytes

ATTENTION, EVERY_LAYER, SMALLEST_LAYER = TIERS = ("attention", "every layer", "smallest layer")


@dataclass(frozen=True)
class ArrayPlan:
    """One .npy file.

    Args:
        name: Path in the store.
        shape: Of the array.
        dtype: numpy's name of its type.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def header(self) -> bytes:
        """What stands before the numbers."""
        file = io.BytesIO()
        description = np.lib.format.dtype_to_descr(np.dtype(self.dtype))
        content = {"descr": description, "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(file, content)
        return file.getvalue()

    @property
    def row_bytes(self) -> int:
        """Bytes of one entry along the first axis."""
        return math.prod(self.shape[1:]) * np.dtype(self.dtype).itemsize

    @property
    def file_bytes(self) -> int:
        return len(self.header) + self.shape[0] * self.row_bytes


@dataclass(frozen=True)
class ModalityPlan:
    """One modality's part in a store.

    Args:
        name: "image" or "text".
        width: D.
        head_count: H.
        row_shapes: Leading axes of its arrays in every split: (images · views, S), or (tokens of all texts,).
        layers: L_f → the layer of this encoder that fuses first, ascending.
        depth: Of the encoder.
    """

    name: str
    width: int
    head_count: int
    row_shapes: Mapping[str, tuple[int, ...]]
    layers: Mapping[int, int]
    depth: int

    def token_layers(self, tier: str) -> tuple[int, ...]:
        """Layers of this encoder whose input rows are stored."""
        layers = tuple(self.layers.values())
        return layers[:1] if tier == SMALLEST_LAYER else layers

    def attention_layers(self, tier: str) -> tuple[int, ...]:
        """Layers of this encoder whose data attention is stored: none that is the last, where few rows attend."""
        return tuple(layer for layer in self.layers.values() if tier == ATTENTION and self.depth - layer >= 2)

    def arrays(self, split: str, tier: str, dtype: str) -> Iterator[ArrayPlan]:
        """Its large arrays in one split."""
        leading = self.row_shapes[split]
        for layer in self.token_layers(tier):
            yield ArrayPlan(f"{split}/{tokens_name(self.name, layer)}", (*leading, self.width), dtype)
        for layer in self.attention_layers(tier):
            yield ArrayPlan(f"{split}/{attended_name(self.name, layer)}", (*leading, self.width), dtype)
            yield ArrayPlan(f"{split}/{logsumexp_name(self.name, layer)}", (*leading, self.head_count), "float32")


def tokens_name(modality: str, layer: int) -> str:
    """File of the rows that a layer reads."""
    return f"{modality}_{layer:02}.npy"


def attended_name(modality: str, layer: int) -> str:
    """File of what those rows attend to among themselves."""
    return f"{modality}_{layer:02}_attended.npy"


def logsumexp_name(modality: str, layer: int) -> str:
    """File of the logsumexp of their scores."""
    return f"{modality}_{layer:02}_logsumexp.npy"


@dataclass(frozen=True)
class FeaturePlan:
    """What a store will hold.

    Args:
        tier: One of `TIERS`.
        dtype: Of tokens and attended rows.
        modalities: Image and text.
        arrays: Every file, `small` ones included.
    """

    tier: str
    dtype: str
    modalities: tuple[ModalityPlan, ModalityPlan]
    arrays: tuple[ArrayPlan, ...]

    @property
    def size_bytes(self) -> int:
        """Of all arrays, to the byte."""
        return sum(array.file_bytes for array in self.arrays)

    def describe(self) -> str:
        """What is kept, in words."""
        first = self.modalities[0]
        layers = list(first.layers)
        if self.tier == SMALLEST_LAYER:
            return (
                f"tokens at fusion layer {layers[0]} alone, those at {_listed(layers[1:])} computed from them whenever "
                "they are read"
            )
        known = [layer for layer, own in first.layers.items() if own in first.attention_layers(self.tier)]
        return f"tokens at fusion layer {_listed(layers)}" + (f", data attention at {_listed(known)}" if known else "")


def _listed(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers))


def choose_plan(
    modalities: tuple[ModalityPlan, ModalityPlan],
    small: Sequence[ArrayPlan],
    config: FeaturesConfig,
    splits: Sequence[str],
) -> FeaturePlan:
    """The best tier that the disk budget allows.

    Args:
        modalities: Image and text.
        small: Arrays that every tier has: labels and indices.
        config: Type, disk budget, and whether attention is wanted.
        splits: Names of the splits.

    Raises:
        DataError: If none fits.
    """
    plans = []
    for tier in TIERS:
        if tier == ATTENTION and not (config.attention and any(part.attention_layers(tier) for part in modalities)):
            continue
        large = (array for split in splits for part in modalities for array in part.arrays(split, tier, config.dtype))
        plans.append(FeaturePlan(tier, config.dtype, modalities, (*small, *large)))
    for plan in plans:
        if plan.size_bytes <= config.disk_bytes:
            return plan
    raise DataError(
        f"features.disk: {format_bytes(config.disk_bytes)} is too little; tokens at the smallest fusion layer alone "
        f"need {format_bytes(plans[-1].size_bytes)} as {config.dtype} with {config.views} view(s) of every training "
        "image"
    )
