"""Encode batches of images or texts with the frozen encoders, and convert the results to what is stored."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.common.boundary import shown
from nas.common.devices import HostCopy, is_fast_in_float16, to_device
from nas.common.errors import DataError
from nas.data.features.eight_bits import read_dtype, to_stored
from nas.data.features.inputs import InputRange, SplitInputs
from nas.data.features.plan import FeaturePlan, attended_name, logsumexp_name, pixels_dtype, readout_name, tokens_name
from nas.models.encoders.base import Encoder, mean_over_tokens
from nas.models.fusion.data_attention import data_attention
from nas.models.fusion.readouts import Readout
from nas.search.space import RAW


class NotFiniteError(DataError):
    """A feature exceeds the range of its storage type; resuming the build would fail in the same way."""


@dataclass(frozen=True)
class EncodedRows:
    """Neighbouring rows of one array.

    Args:
        name: Name of the array within the store.
        first_row: Index of the first row.
        values: The rows, in the element type of the array.
    """

    name: str
    first_row: int
    values: NDArray[np.generic]


class BatchEncoder:
    """Computes what a store holds of each batch.

    Args:
        encoders: Image and text encoder, on one device.
        plan: The plan of the store.
        splits: Inputs of every split, by name.
        image_shape: Shape of the pixel values of an image.
        location: The images, for messages.
        allows_float16: Whether to compute in float16 what is read as float16, on a device that is fast at it.
    """

    def __init__(
        self,
        encoders: tuple[Encoder, Encoder],
        plan: FeaturePlan,
        splits: Mapping[str, SplitInputs],
        image_shape: tuple[int, ...],
        location: object,
        allows_float16: bool = True,
    ) -> None:
        self._encoders = encoders
        self._plan = plan
        self._splits = splits
        self._image_shape = image_shape
        self._location = location
        self._is_float16 = allows_float16 and read_dtype(plan.dtype) == torch.float16

    def encode(self, batch: InputRange, inputs: Tensor, mask: Tensor | None) -> "EncodedBatch":
        """Return the rows of all arrays that a batch has; on an accelerator the host does not wait for them yet.

        Args:
            batch: The batch.
            inputs: Pixel values (B, 3, height, width) or token ids (B, T).
            mask: The mask of the tokens, (B, T); None for images and for texts without padding.

        Raises:
            DataError: If images differ in shape.
        """
        device = next(self._encoders[0].parameters()).device
        is_half = self._is_float16 and is_fast_in_float16(device)
        with torch.inference_mode(), torch.autocast(device.type, torch.float16, enabled=is_half):
            return self._encode(batch, inputs, mask, device)

    def _encode(self, batch: InputRange, inputs: Tensor, mask: Tensor | None, device: torch.device) -> "EncodedBatch":
        is_text = batch.modality == "text"
        if not is_text:
            self._check_size(batch, tuple(inputs.shape[1:]))
        encoder = self._encoders[1 if is_text else 0]
        modality = self._plan.modalities[1 if is_text else 0]
        stored = EncodedBatch(batch, encoder, None if mask is None else to_device(_places(mask), device))
        inputs, mask = to_device(inputs, device), None if mask is None else to_device(mask, device)
        view_step = 1 if is_text else self._splits[batch.split].views  # view 0 is the image itself
        targets = modality.token_layers(self._plan.tier)
        if RAW in targets:
            stored.add(tokens_name(batch.modality, RAW), inputs, "int32" if is_text else pixels_dtype(self._plan.dtype))
            targets = targets[1:]
        if not targets:
            inputs = inputs[::view_step]  # only readouts are needed
        rows = encoder.embed(inputs)  # (B, R, D)
        bias = encoder.data_bias(mask, rows.shape[1], rows.dtype)
        layer = 0
        for target in targets:
            rows = encoder.run(rows, bias, start=layer, stop=target)
            layer = target
            stored.add(tokens_name(batch.modality, layer), rows, self._plan.dtype)
            if layer in modality.attention_layers(self._plan.tier):
                attention = data_attention(encoder.layers[layer], rows, bias)
                stored.add(attended_name(batch.modality, layer), attention.attended, self._plan.dtype)
                stored.add(logsumexp_name(batch.modality, layer), attention.logsumexp, "float32")
        if targets:
            rows = rows[::view_step]
        rows = encoder.finish(encoder.run(rows, bias, start=layer, stop=encoder.num_layers))
        for readout, values in read_out(encoder, rows, mask).items():
            stored.add_readout(readout_name(batch.modality, readout), values)
        stored.copy()
        return stored

    def _check_size(self, batch: InputRange, shape: tuple[int, ...]) -> None:
        if shape != self._image_shape:
            names = self._splits[batch.split].images[batch.start : batch.stop]
            raise DataError(
                f"{self._location}: processed images {shown(names[0])} to {shown(names[-1])} differ in "
                f"shape; expected {self._image_shape} as for other images, got {shape}; use an image processor that "
                "resizes all images to one size"
            )


class EncodedBatch:
    """The rows of all arrays that one batch has, collected on the device, so that the host waits for it once.

    Args:
        batch: The batch.
        encoder: The encoder, for messages.
        places: The places of the tokens among all places of the batch, (tokens,); None without padding.
    """

    def __init__(self, batch: InputRange, encoder: Encoder, places: Tensor | None) -> None:
        self._batch = batch
        self._encoder = encoder
        self._places = places
        self._rows: list[tuple[str, int, Tensor]] = []
        self._extremes: list[Tensor] = []
        self._limits: list[str] = []
        self._copies: list[HostCopy] = []

    def add(self, name: str, values: Tensor, dtype: str) -> None:
        """Add the rows of tokens, (B, R, …)."""
        if self._batch.modality == "text":  # without padding
            values = values.flatten(0, 1)
            values = values if self._places is None else values.index_select(0, self._places)
        self._add(name, self._batch.first_row, values, dtype)

    def add_readout(self, name: str, values: Tensor) -> None:
        """Add one row for each image or text, (B, D)."""
        self._add(name, self._batch.start, values, "float32")

    def _add(self, name: str, first_row: int, values: Tensor, dtype: str) -> None:
        if values.is_floating_point():
            self._extremes.append(torch.stack(torch.aminmax(values)).float())  # both NaN if any value is
            self._limits.append(dtype)
        self._rows.append((f"{self._batch.split}/{name}", first_row, to_stored(values, dtype)))

    def copy(self) -> None:
        """Start to copy all rows to the host."""
        self._copies = [HostCopy(values.contiguous()) for _, _, values in self._rows]
        self._copies.append(HostCopy(torch.stack(self._extremes).abs()))

    def rows(self) -> list[EncodedRows]:
        """Return the rows on the host, once the device has computed them.

        Raises:
            NotFiniteError: If a feature exceeds the range of its storage type.
        """
        *arrays, extremes = [copy.wait() for copy in self._copies]
        _check_range(extremes.tolist(), self._limits, self._encoder)
        return [
            EncodedRows(name, row, values.numpy()) for (name, row, _), values in zip(self._rows, arrays, strict=True)
        ]


def _places(mask: Tensor) -> Tensor:
    """Return the places of the tokens among all places of a batch, found on the host: a device would be waited for."""
    return mask.flatten().nonzero().squeeze(1)


def _check_range(extremes: Sequence[Sequence[float]], dtypes: Sequence[str], encoder: Encoder) -> None:
    for (lowest, highest), dtype in zip(extremes, dtypes, strict=True):
        limit = torch.finfo(read_dtype(dtype)).max
        if not (lowest <= limit and highest <= limit):
            largest = lowest if math.isnan(lowest) else max(lowest, highest)
            hint = "; set features.dtype: float32" if math.isfinite(largest) else ""
            raise NotFiniteError(
                f"{encoder.model.name_or_path}: a feature exceeds the range of {dtype} (features.dtype); expected at "
                f"most {limit:g}, got {largest:g}{hint}"
            )


def read_out(encoder: Encoder, rows: Tensor, mask: Tensor | None) -> dict[Readout, Tensor]:
    """Return the readouts of a frozen encoder, (B, D) each.

    Args:
        encoder: The encoder.
        rows: The tokens after the last layer and its final norm, (B, R, D).
        mask: (B, R), true where there is a token; None without padding.
    """
    return {"pooled": encoder.pool(encoder.readout_rows(rows, mask)), "mean": mean_over_tokens(rows, mask)}
