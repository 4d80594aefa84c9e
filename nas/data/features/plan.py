"""Contents and size of a feature store, known to the byte before anything is computed.

An entry layer is a layer at which an architecture of the search space starts to compute. The tiers, best first:

- `attention`: the tokens at every entry layer and, where PMF fuses in this layer and a later one, also the attention of
  the data rows among themselves, which depends on no trained parameter either (half the size of keys and values).
- `every layer`: the tokens at every entry layer.
- `smallest layer`: the tokens at the first entry layer; those at later ones are recomputed whenever they are read.
- `nothing`, by choice only: the token ids, and the paths of the images; all tokens are computed whenever they are read.

For an encoder that is trained as a whole, the store has the processed pixel values or the token ids.

Every tier also has the readouts of both frozen encoders, a few kB for each sample: what a linear classifier reads.
"""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nas.common.errors import DiskError
from nas.common.units import format_bytes
from nas.config.choices import FeatureStorage
from nas.config.data_schema import FeaturesConfig
from nas.data.features.eight_bits import stored_width
from nas.models.fusion.readouts import READOUTS, Readout
from nas.search.space import RAW

ATTENTION, EVERY_LAYER, SMALLEST_LAYER, NOTHING = TIERS = ("attention", "every layer", "smallest layer", "nothing")
IMAGE_NAMES = "image_names.npy"
"""The file of a split with the paths of its images, as one array of bytes; only where nothing of them is stored."""
IMAGE_PIXELS = "image_pixels.npy"
"""The file with the number of pixels of each of these images."""
_TIERS_OF: Mapping[FeatureStorage, Sequence[str]] = {
    "auto": (ATTENTION, EVERY_LAYER, SMALLEST_LAYER),
    "every_layer": (ATTENTION, EVERY_LAYER),
    "lowest_layer": (SMALLEST_LAYER,),
    "none": (NOTHING,),
}


@dataclass(frozen=True)
class ArrayPlan:
    """One .npy file.

    Args:
        name: Path within the store.
        shape: Shape of the array.
        dtype: NumPy name of the element type.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def header(self) -> bytes:
        """The .npy header, which precedes the numbers."""
        file = io.BytesIO()
        description = np.lib.format.dtype_to_descr(np.dtype(self.dtype))
        content = {"descr": description, "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(file, content)
        return file.getvalue()

    @property
    def row_bytes(self) -> int:
        """Size of one entry along the first axis, in bytes."""
        return math.prod(self.shape[1:]) * np.dtype(self.dtype).itemsize

    @property
    def file_bytes(self) -> int:
        return len(self.header) + self.shape[0] * self.row_bytes


@dataclass(frozen=True)
class ModalityPlan:
    """The part of one modality in a store.

    Args:
        name: "image" or "text".
        hidden_size: Hidden size of the encoder, D.
        num_heads: Number of attention heads, H.
        input_counts: Number of images or texts, by split; views of an image are not counted.
        row_shapes: Leading axes of the arrays, by split: (images · views, S) or (tokens of all texts,).
        raw_shapes: Shape of the encoder inputs, by split: (images · views, 3, height, width) or (tokens of all texts,).
        layers: The entry layers of this encoder, ascending; empty if the encoder is not used.
        num_layers: Number of layers of the encoder.
        uses_attention: Whether the models use stored data attention.
    """

    name: str
    hidden_size: int
    num_heads: int
    input_counts: Mapping[str, int]
    row_shapes: Mapping[str, tuple[int, ...]]
    raw_shapes: Mapping[str, tuple[int, ...]]
    layers: tuple[int, ...]
    num_layers: int
    uses_attention: bool

    def token_layers(self, tier: str) -> tuple[int, ...]:
        """Return the entry layers whose tokens are stored."""
        if tier == NOTHING:
            return (RAW,) if self.layers and self.name == "text" else ()
        return self.layers[:1] if tier == SMALLEST_LAYER else self.layers

    def attention_layers(self, tier: str) -> tuple[int, ...]:
        """Return the entry layers whose data attention is stored: not the last layer, where few rows attend."""
        if tier != ATTENTION or not self.uses_attention:
            return ()
        return tuple(layer for layer in self.layers if self.num_layers - layer >= 2)

    def readouts(self, split: str) -> Iterator[ArrayPlan]:
        """Yield the arrays of the readouts of one split, one row for each image or text in storage order."""
        for readout in READOUTS:
            shape = (self.input_counts[split], self.hidden_size)
            yield ArrayPlan(f"{split}/{readout_name(self.name, readout)}", shape, "float32")

    def arrays(self, split: str, tier: str, dtype: str) -> Iterator[ArrayPlan]:
        """Yield the large arrays of one split."""
        rows = (*self.row_shapes[split], stored_width(self.hidden_size, dtype))
        for layer in self.token_layers(tier):
            if layer == RAW:
                raw_dtype = pixels_dtype(dtype) if self.name == "image" else "int32"
                yield ArrayPlan(f"{split}/{tokens_name(self.name, layer)}", self.raw_shapes[split], raw_dtype)
                continue
            yield ArrayPlan(f"{split}/{tokens_name(self.name, layer)}", rows, dtype)
        for layer in self.attention_layers(tier):
            yield ArrayPlan(f"{split}/{attended_name(self.name, layer)}", rows, dtype)
            yield ArrayPlan(f"{split}/{logsumexp_name(self.name, layer)}", (*rows[:-1], self.num_heads), "float32")


def pixels_dtype(dtype: str) -> str:
    """Return the storage type of pixel values, which are not quantised: their rows have no scale of their own.

    Args:
        dtype: The storage type of tokens.
    """
    return "float16" if dtype == "int8" else dtype


def tokens_name(modality: str, layer: int) -> str:
    """Return the file name of the tokens at a layer; at `RAW`, of the pixel values or token ids."""
    return f"{modality}_raw.npy" if layer == RAW else f"{modality}_{layer:02}.npy"


def readout_name(modality: str, readout: Readout) -> str:
    """Return the file name of a readout of the last layer, after the final norm."""
    return f"{modality}_{readout}.npy"


def attended_name(modality: str, layer: int) -> str:
    """Return the file name of the attention outputs of the data rows among themselves."""
    return f"{modality}_{layer:02}_attended.npy"


def logsumexp_name(modality: str, layer: int) -> str:
    """Return the file name of the logsumexp of the attention scores of the data rows."""
    return f"{modality}_{layer:02}_logsumexp.npy"


@dataclass(frozen=True)
class FeaturePlan:
    """Contents and size of a feature store.

    Args:
        tier: One of `TIERS`.
        dtype: Storage type of tokens and attended rows.
        modalities: The parts of image and text.
        arrays: All arrays, including the small ones.
    """

    tier: str
    dtype: str
    modalities: tuple[ModalityPlan, ModalityPlan]
    arrays: tuple[ArrayPlan, ...]

    @property
    def size_bytes(self) -> int:
        """Total size of all arrays, to the byte."""
        return sum(array.file_bytes for array in self.arrays)

    def describe(self, config: FeaturesConfig) -> str:
        """Return one line for the user: the size, and what is recomputed to fit the disk budget.

        Args:
            config: The configuration that the plan was made for.
        """
        if self.tier == NOTHING:
            return (
                f"Encoder outputs are not cached (features.storage: none) but for what the linear classifier reads: "
                f"{format_bytes(self.size_bytes)}; every step decodes its images and computes the frozen layers"
            )
        text = (
            f"Encoder outputs are cached once: {format_bytes(self.size_bytes)} of at most "
            f"{format_bytes(config.disk_bytes)}"
        )
        if config.views > 1:
            text += f", with {config.views} views of every training image"
        if self.tier == SMALLEST_LAYER and any(len(part.layers) > 1 for part in self.modalities):
            reason = "is cached (features.storage)" if config.storage == "lowest_layer" else "fits features.disk"
            text += f"; only the first entry layer {reason}, later ones are recomputed whenever they are read"
        return text


def possible_plans(
    modalities: tuple[ModalityPlan, ModalityPlan],
    small: Sequence[ArrayPlan],
    config: FeaturesConfig,
    splits: Sequence[str],
) -> list[FeaturePlan]:
    """Return the plan of every tier, whatever its size, best first.

    Args:
        modalities: The parts of image and text.
        small: Further arrays that every tier has: labels and indices.
        config: Storage type, disk budget, and whether to store data attention.
        splits: Names of the splits.
    """
    plans = []
    small = [*small, *(array for split in splits for part in modalities for array in part.readouts(split))]
    for tier in TIERS:
        if tier == ATTENTION and not (config.attention and any(part.attention_layers(tier) for part in modalities)):
            continue
        large = (array for split in splits for part in modalities for array in part.arrays(split, tier, config.dtype))
        plans.append(FeaturePlan(tier, config.dtype, modalities, (*small, *large)))
    return plans


def choose_plan(plans: Sequence[FeaturePlan], config: FeaturesConfig) -> FeaturePlan:
    """Return the best plan that fits the disk budget, of those that `features.storage` allows.

    Nothing measured decides: features depend on the choice up to the rounding to their storage type.

    Args:
        plans: The possible plans, best first.
        config: The disk budget and the allowed tiers.

    Raises:
        DiskError: If none fits.
    """
    allowed = [plan for plan in plans if plan.tier in _TIERS_OF[config.storage]]
    for plan in allowed:
        if plan.size_bytes <= config.disk_bytes:
            return plan
    layers = "every entry layer" if config.storage == "every_layer" else "the first entry layer"
    needed = f"{layers} as {config.dtype} with {config.views} view(s) of every training image"
    hint = "; features.storage: none caches no tokens"
    if config.storage == "none":
        needed, hint = "what the linear classifier reads", ""
    raise DiskError(
        f"features.disk: the budget is too small; expected at least {format_bytes(allowed[-1].size_bytes)} for "
        f"{needed}, got {format_bytes(config.disk_bytes)}{hint}"
    )
