"""Compute base features into a folder, in steps of 32 images or texts, so that a killed build can be resumed.

Resuming is safe because every file has its full size before the first step, and each step writes to its own rows. At
intervals all files are flushed (fsync), and only then is `progress.json` replaced, with the number of steps that were
done when the flush began. So all recorded steps are on disk, even after a power loss, and later steps are recomputed
with the same numbers. `features.json`, which makes the folder a store, is written last, with checksums of all files.
"""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.common.boundary import shown
from nas.common.devices import CPU, is_accelerator, start_peak
from nas.common.errors import DataError
from nas.common.files import sync_directory, write_atomically
from nas.config.data_schema import FeaturesConfig
from nas.data.features.inputs import BuildStep, FeatureSources, SplitInputs, pixel_values, prepare_inputs
from nas.data.features.plan import (
    ArrayPlan,
    ModalityPlan,
    attended_name,
    choose_plan,
    logsumexp_name,
    readout_name,
    tokens_name,
)
from nas.data.features.writer import ArrayFiles, ProgressSaver
from nas.models.encoders.base import Encoder, mean_over_tokens
from nas.models.fusion.data_attention import data_attention
from nas.models.fusion.readouts import Readout
from nas.search.space import RAW

_PROGRESS = "progress.json"

OnProgress = Callable[[int, int], None]
"""Receives the number of images and texts done, and the total."""


class NotFiniteError(DataError):
    """A feature exceeds the range of its storage type; resuming the build would fail in the same way."""


class FeatureBuild:
    """The build of one store.

    Args:
        sources: The data and the encoders.
        config: Storage type, disk budget and number of views.

    Raises:
        DataError: If no tier fits the disk budget.
    """

    def __init__(self, sources: FeatureSources, config: FeaturesConfig) -> None:
        self.sources = sources
        splits = sources.dataset.splits
        self.views = {name: config.views if name == "train" else 1 for name in splits}
        self._splits = {
            name: SplitInputs(name, samples, sources.preprocessor, self.views[name]) for name, samples in splits.items()
        }
        self._small = {
            f"{split}/{name}.npy": array
            for split, inputs in self._splits.items()
            for name, array in inputs.small_arrays().items()
        }
        self._image_shape, self.image_token_count = _image_sizes(sources)
        small = [ArrayPlan(name, array.shape, array.dtype.name) for name, array in self._small.items()]
        self.plan = choose_plan(self._modalities(), small, config, list(splits))
        self._steps = [step for inputs in self._splits.values() for step in inputs.steps()]

    def _modalities(self) -> tuple[ModalityPlan, ModalityPlan]:
        sources, splits = self.sources, self._splits
        counts = {name: len(inputs.images) * inputs.views for name, inputs in splits.items()}
        pixels = {name: (count, *self._image_shape) for name, count in counts.items()}
        tokens = {name: (count, self.image_token_count) for name, count in counts.items()}
        texts = {name: (int(inputs.text_lengths.sum()),) for name, inputs in splits.items()}
        image_counts = {name: len(inputs.images) for name, inputs in splits.items()}
        text_counts = {name: len(inputs.text_lengths) for name, inputs in splits.items()}

        def modality(
            name: str,
            encoder: Encoder,
            layers: Iterable[int | None],
            input_counts: Mapping[str, int],
            row_shapes: Mapping[str, tuple[int, ...]],
            raw_shapes: Mapping[str, tuple[int, ...]],
        ) -> ModalityPlan:
            return ModalityPlan(
                name=name,
                hidden_size=encoder.hidden_size,
                num_heads=encoder.layers[0].projections.num_heads,
                input_counts=input_counts,
                row_shapes=row_shapes,
                raw_shapes=raw_shapes,
                layers=tuple(sorted({layer for layer in layers if layer is not None})),
                num_layers=encoder.num_layers,
                uses_attention=sources.uses_attention,
            )

        image_layers, text_layers = zip(*sources.entry_layers, strict=True)
        return (
            modality("image", sources.image_encoder, image_layers, image_counts, tokens, pixels),
            modality("text", sources.text_encoder, text_layers, text_counts, texts, texts),
        )

    @cached_property
    def _digest(self) -> str:
        return hashlib.sha256(repr((self.plan.arrays, self._steps)).encode()).hexdigest()

    def steps_done(self, directory: Path) -> int | None:
        """Return the number of durable steps of an earlier build of the same plan; None if it cannot be resumed.

        Args:
            directory: The folder of the build.
        """
        try:
            progress = json.loads((directory / _PROGRESS).read_text(encoding="utf-8"))
            is_same = progress["plan"] == self._digest and all(
                (directory / array.name).stat().st_size == array.file_bytes for array in self.plan.arrays
            )
            return int(progress["done"]) if is_same else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def start(self, directory: Path) -> None:
        """Create the folder with all files in their full size, which reserves the disk space.

        Args:
            directory: The folder to create.

        Raises:
            OSError: If the disk is full.
        """
        for split in self._splits:
            (directory / split).mkdir(parents=True)
        for array in self.plan.arrays:
            with (directory / array.name).open("wb") as file:
                file.write(array.header)
                file.flush()
                _reserve(file.fileno(), array.file_bytes)
        with ArrayFiles(directory, self.plan.arrays) as files:
            for name, values in self._small.items():
                files.write(name, 0, values)
            files.sync()
        for path in (*(directory / split for split in self._splits), directory, directory.parent):
            sync_directory(path)
        self._write_progress(directory, 0)

    def _write_progress(self, directory: Path, done: int) -> None:
        write_atomically(directory / _PROGRESS, json.dumps({"plan": self._digest, "done": done}).encode())

    @torch.inference_mode()
    def run(self, directory: Path, on_progress: OnProgress) -> None:
        """Compute all remaining steps in a folder that `start` has created.

        Args:
            directory: The folder.
            on_progress: Callback that receives the numbers of images and texts done and in total.

        Raises:
            DataError: If an image cannot be read, or a feature exceeds the storage type.
            OSError: If a file cannot be written.
        """
        done = self.steps_done(directory) or 0
        count, total = sum(step.count for step in self._steps[:done]), sum(step.count for step in self._steps)
        on_progress(count, total)
        with (
            ArrayFiles(directory, self.plan.arrays) as files,
            ProgressSaver(files, lambda done: self._write_progress(directory, done)) as saver,
            _placed((self.sources.image_encoder, self.sources.text_encoder), self.sources.device),
            contextlib.closing(prepare_inputs(self._steps[done:], self._splits, self.sources)) as steps,
        ):
            for step, inputs, mask in steps:
                for name, first_row, values in self._encode(step, inputs, mask):
                    files.write(f"{step.split}/{name}", first_row, values)
                done, count = done + 1, count + step.count
                saver.record(done)
                on_progress(count, total)
            saver.finish(done)

    def _encode(
        self, step: BuildStep, inputs: Tensor, mask: Tensor | None
    ) -> Iterator[tuple[str, int, NDArray[np.generic]]]:
        """Yield the name of each array of the split, the first row that the step writes to it, and the rows."""
        is_text = step.modality == "text"
        encoder = self.sources.text_encoder if is_text else self.sources.image_encoder
        modality = self.plan.modalities[1 if is_text else 0]
        device = next(encoder.parameters()).device
        inputs, mask = inputs.to(device), None if mask is None else mask.to(device)

        def stored(name: str, values: Tensor, dtype: str) -> tuple[str, int, NDArray[np.generic]]:
            if is_text:
                values = values.flatten(0, 1) if mask is None else values[mask]  # without padding
            return name, step.first_row, _to_storage(values, dtype, encoder)

        if not is_text:
            self._check_size(step, tuple(inputs.shape[1:]))
        targets = modality.token_layers(self.plan.tier)
        if RAW in targets:
            yield stored(tokens_name(step.modality, RAW), inputs, "int32" if is_text else self.plan.dtype)
            targets = targets[1:]
        if not targets:
            inputs = inputs[:: self._view_step(step)]  # only readouts are needed
        rows = encoder.embed(inputs)  # (B, R, D)
        bias = encoder.data_bias(mask, rows.shape[1], rows.dtype)
        layer = 0
        for target in targets:
            rows = encoder.run(rows, bias, start=layer, stop=target)
            layer = target
            yield stored(tokens_name(step.modality, layer), rows, self.plan.dtype)
            if layer in modality.attention_layers(self.plan.tier):
                attention = data_attention(encoder.layers[layer], rows, bias)
                yield stored(attended_name(step.modality, layer), attention.attended, self.plan.dtype)
                yield stored(logsumexp_name(step.modality, layer), attention.logsumexp, "float32")
        if targets:
            rows = rows[:: self._view_step(step)]
        rows = encoder.finish(encoder.run(rows, bias, start=layer, stop=encoder.num_layers))
        for readout, values in read_out(encoder, rows, mask).items():
            yield readout_name(step.modality, readout), step.start, _to_storage(values, "float32", encoder)

    def _view_step(self, step: BuildStep) -> int:
        """Return the distance of the images themselves, view 0, among the inputs of a step."""
        return 1 if step.modality == "text" else self.views[step.split]

    def _check_size(self, step: BuildStep, shape: tuple[int, ...]) -> None:
        if shape != self._image_shape:
            names = self._splits[step.split].images[step.start : step.stop]
            raise DataError(
                f"{self.sources.images.location}: processed images {shown(names[0])} to {shown(names[-1])} differ in "
                f"shape; expected {self._image_shape} as for other images, got {shape}; use an image processor that "
                "resizes all images to one size"
            )


@contextlib.contextmanager
def _placed(encoders: Iterable[Encoder], device: torch.device) -> Iterator[None]:
    """Keep encoders on a device; afterwards they are on the CPU, where workers get their weights from."""
    if not is_accelerator(device):
        yield
        return
    try:
        for encoder in encoders:
            encoder.to(device)
        yield
    finally:
        for encoder in encoders:
            encoder.to(CPU)
        start_peak(device)  # gives the memory back


def read_out(encoder: Encoder, rows: Tensor, mask: Tensor | None) -> dict[Readout, Tensor]:
    """Return the readouts of a frozen encoder, (B, D) each.

    Args:
        encoder: The encoder.
        rows: The tokens after the last layer and its final norm, (B, R, D).
        mask: (B, R), true where there is a token; None without padding.
    """
    return {"pooled": encoder.pool(encoder.readout_rows(rows, mask)), "mean": mean_over_tokens(rows, mask)}


def _reserve(descriptor: int, size_bytes: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size_bytes)
    else:
        os.truncate(descriptor, size_bytes)  # macOS, where a full disk is noticed only during the build


def _image_sizes(sources: FeatureSources) -> tuple[tuple[int, ...], int]:
    """Return the shape of the pixel values of an image, and its number of tokens, S."""
    split = next(iter(sources.dataset.splits.values()))
    pixels = pixel_values([split.images[0]], 1, sources)
    with torch.inference_mode():
        encoder = sources.image_encoder
        tokens = encoder.embed(pixels.to(next(encoder.parameters()).device))
    return tuple(pixels.shape[1:]), int(tokens.shape[1])


def _to_storage(values: Tensor, dtype: str, encoder: Encoder) -> NDArray[np.generic]:
    if not values.is_floating_point():
        ids: NDArray[np.generic] = values.cpu().numpy().astype(dtype)
        return ids
    lowest, highest = (abs(value.item()) for value in values.aminmax())  # both NaN if any value is
    limit = float(np.finfo(dtype).max)
    if not (lowest <= limit and highest <= limit):
        largest = lowest if math.isnan(lowest) else max(lowest, highest)
        hint = "; set features.dtype: float32" if math.isfinite(largest) else ""
        raise NotFiniteError(
            f"{encoder.model.name_or_path}: a feature exceeds the range of {dtype} (features.dtype); expected at most "
            f"{limit:g}, got {largest:g}{hint}"
        )
    array: NDArray[np.generic] = values.to(getattr(torch, dtype)).cpu().contiguous().numpy()
    return array


def delete_progress(directory: Path) -> None:
    """Delete the progress record of a build, so that it cannot be resumed.

    Args:
        directory: The folder of the build or the finished store.
    """
    (directory / _PROGRESS).unlink(missing_ok=True)
    sync_directory(directory)
