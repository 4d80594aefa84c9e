"""What a feature store will hold and how large it will be, known to the byte before anything is computed.

What is kept of every layer that an architecture of the search space starts from, best first:

- `attention`: tokens at every such layer, and, where PMF fuses in it and in another one behind it, also what the data
  rows attend to among themselves there, which depends on no trained parameter either (half the size of keys and
  values).
- `every layer`: tokens at every such layer.
- `smallest layer`: tokens at the first one; those of the others are computed from them whenever they are read.

Of an encoder that is trained, embedding and all, the processed pixels and the token ids are kept.
"""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nas.common.errors import DataError
from nas.common.units import format_bytes
from nas.config.schema import FeaturesConfig
from nas.search.space import RAW

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
        hidden_size: D.
        num_heads: H.
        row_shapes: Leading axes of its arrays in every split: (images · views, S), or (tokens of all texts,).
        raw_shapes: Axes of its inputs in every split: (images · views, 3, height, width), or (tokens of all texts,).
        layers: Of this encoder, whose inputs are asked for, ascending; none where it is not used.
        num_layers: Of the encoder.
        has_attention: Whether data attention is made use of.
    """

    name: str
    hidden_size: int
    num_heads: int
    row_shapes: Mapping[str, tuple[int, ...]]
    raw_shapes: Mapping[str, tuple[int, ...]]
    layers: tuple[int, ...]
    num_layers: int
    has_attention: bool

    def token_layers(self, tier: str) -> tuple[int, ...]:
        """Layers of this encoder whose inputs are stored."""
        return self.layers[:1] if tier == SMALLEST_LAYER else self.layers

    def attention_layers(self, tier: str) -> tuple[int, ...]:
        """Layers of this encoder whose data attention is stored: none that is the last, where few rows attend."""
        if tier != ATTENTION or not self.has_attention:
            return ()
        return tuple(layer for layer in self.layers if self.num_layers - layer >= 2)

    def arrays(self, split: str, tier: str, dtype: str) -> Iterator[ArrayPlan]:
        """Its large arrays in one split."""
        leading = self.row_shapes[split]
        for layer in self.token_layers(tier):
            if layer == RAW:
                kind = dtype if self.name == "image" else "int32"
                yield ArrayPlan(f"{split}/{tokens_name(self.name, layer)}", self.raw_shapes[split], kind)
                continue
            yield ArrayPlan(f"{split}/{tokens_name(self.name, layer)}", (*leading, self.hidden_size), dtype)
        for layer in self.attention_layers(tier):
            yield ArrayPlan(f"{split}/{attended_name(self.name, layer)}", (*leading, self.hidden_size), dtype)
            yield ArrayPlan(f"{split}/{logsumexp_name(self.name, layer)}", (*leading, self.num_heads), "float32")


def tokens_name(modality: str, layer: int) -> str:
    """File of the rows that a layer reads, or of pixel values or token ids."""
    return f"{modality}_raw.npy" if layer == RAW else f"{modality}_{layer:02}.npy"


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
        return "; ".join(self._described(part) for part in self.modalities if part.layers)

    def _described(self, part: ModalityPlan) -> str:
        stored, known = part.token_layers(self.tier), part.attention_layers(self.tier)
        text = f"{part.name} {_listed(stored)}"
        if stored != part.layers:
            text += f" alone, those at {', '.join(map(str, part.layers[1:]))} computed from them whenever read"
        return text + (f", data attention at {', '.join(map(str, known))}" if known else "")


def _listed(layers: Sequence[int]) -> str:
    if layers[0] == RAW:
        return "inputs"
    return f"tokens at layer {', '.join(map(str, layers))}"


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
        f"features.disk: {format_bytes(config.disk_bytes)} is too little; tokens at the first layer alone "
        f"need {format_bytes(plans[-1].size_bytes)} as {config.dtype} with {config.views} view(s) of every training "
        "image"
    )
