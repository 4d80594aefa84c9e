"""Compute base features into a folder, in steps of 32 images or texts, so that a build that was killed goes on.

Why that is safe: every file has its full size before the first step, and a step writes to places of its own. Now and
then all files are flushed to the disk (fsync) and after that, never before, `progress.json` is replaced by one that
says how many steps were done when the flush began. So whatever it says is on the disk, even after a loss of power, and
what was written beyond it is written again with the same numbers. `features.json`, without which the folder is no
store, comes last, with the checksums of what is then in the files.
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

from nas.common.errors import DataError
from nas.common.files import sync_directory, write_atomically
from nas.config.schema import FeaturesConfig
from nas.data.features.inputs import Sources, SplitInputs, Step, pixel_values, prepared
from nas.data.features.plan import ArrayPlan, ModalityPlan, attended_name, choose_plan, logsumexp_name, tokens_name
from nas.data.features.writer import ArrayFiles, Checkpoints
from nas.models.encoders.base import Encoder
from nas.models.fusion.data_attention import data_attention
from nas.search.space import RAW

_PROGRESS = "progress.json"

OnProgress = Callable[[int, int], None]
"""Called with images and texts done, and both in all."""


class NotFiniteError(DataError):
    """A feature does not fit the type that it is stored in; it would not the next time either."""


class FeatureBuild:
    """The work of one store.

    Args:
        sources: What is computed.
        config: How it is stored.

    Raises:
        DataError: If no tier fits the disk budget.
    """

    def __init__(self, sources: Sources, config: FeaturesConfig) -> None:
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
        used = {part.name for part in self.plan.modalities if part.layers}
        self._steps = [step for inputs in self._splits.values() for step in inputs.steps() if step.modality in used]

    def _modalities(self) -> tuple[ModalityPlan, ModalityPlan]:
        sources, splits = self.sources, self._splits
        counts = {name: len(inputs.images) * inputs.views for name, inputs in splits.items()}
        pixels = {name: (count, *self._image_shape) for name, count in counts.items()}
        tokens = {name: (count, self.image_token_count) for name, count in counts.items()}
        texts = {name: (int(inputs.text_lengths.sum()),) for name, inputs in splits.items()}

        def modality(
            name: str,
            encoder: Encoder,
            layers: Iterable[int | None],
            row_shapes: Mapping[str, tuple[int, ...]],
            raw_shapes: Mapping[str, tuple[int, ...]],
        ) -> ModalityPlan:
            return ModalityPlan(
                name=name,
                hidden_size=encoder.hidden_size,
                num_heads=encoder.layers[0].projections.num_heads,
                row_shapes=row_shapes,
                raw_shapes=raw_shapes,
                layers=tuple(sorted({layer for layer in layers if layer is not None})),
                num_layers=encoder.num_layers,
                has_attention=sources.has_attention,
            )

        return (
            modality("image", sources.image_encoder, (reads.image for reads in sources.reads), tokens, pixels),
            modality("text", sources.text_encoder, (reads.text for reads in sources.reads), texts, texts),
        )

    @cached_property
    def _digest(self) -> str:
        return hashlib.sha256(repr((self.plan.arrays, self._steps)).encode()).hexdigest()

    def steps_done(self, directory: Path) -> int | None:
        """How far an earlier build of the same plan came in a folder; None where there is nothing to go on with."""
        try:
            progress = json.loads((directory / _PROGRESS).read_text(encoding="utf-8"))
            is_same = progress["plan"] == self._digest and all(
                (directory / array.name).stat().st_size == array.file_bytes for array in self.plan.arrays
            )
            return int(progress["done"]) if is_same else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def start(self, directory: Path) -> None:
        """Make the folder with all files in their full size, so that the disk has room for everything from now on.

        Raises:
            OSError: If it has not.
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
        """Compute what is missing in a folder that `start` has made.

        Args:
            directory: The folder.
            on_progress: Told images and texts done.

        Raises:
            DataError: If an image cannot be read, or a feature does not fit the type.
            OSError: If a file cannot be written.
        """
        done = self.steps_done(directory) or 0
        count, total = sum(step.count for step in self._steps[:done]), sum(step.count for step in self._steps)
        on_progress(count, total)
        with (
            ArrayFiles(directory, self.plan.arrays) as files,
            Checkpoints(files, lambda done: self._write_progress(directory, done)) as checkpoints,
            contextlib.closing(prepared(self._steps[done:], self._splits, self.sources)) as steps,
        ):
            for step, inputs, mask in steps:
                for name, values in self._encoded(step, inputs, mask):
                    files.write(f"{step.split}/{name}", step.first_row, values)
                done, count = done + 1, count + step.count
                checkpoints.reached(done)
                on_progress(count, total)
            checkpoints.finish(done)

    def _encoded(self, step: Step, inputs: Tensor, mask: Tensor | None) -> Iterator[tuple[str, NDArray[np.generic]]]:
        """Files of the step's split, and the rows that it adds to them."""
        is_text = step.modality == "text"
        encoder = self.sources.text_encoder if is_text else self.sources.image_encoder
        modality = self.plan.modalities[1 if is_text else 0]
        device = next(encoder.parameters()).device
        inputs, mask = inputs.to(device), None if mask is None else mask.to(device)

        def stored(values: Tensor, dtype: str) -> NDArray[np.generic]:
            if is_text:
                values = values.flatten(0, 1) if mask is None else values[mask]  # padding is not stored
            return _stored(values, dtype, encoder)

        if not is_text:
            self._check_size(step, tuple(inputs.shape[1:]))
        targets = modality.token_layers(self.plan.tier)
        if targets[0] == RAW:
            yield tokens_name(step.modality, RAW), stored(inputs, "int32" if is_text else self.plan.dtype)
            targets = targets[1:]
        if not targets:
            return
        rows = encoder.embed(inputs)  # (B, R, D)
        bias = encoder.data_bias(mask, rows.shape[1], rows.dtype)
        layer = 0
        for target in targets:
            rows = encoder.run(rows, bias, start=layer, stop=target)
            layer = target
            yield tokens_name(step.modality, layer), stored(rows, self.plan.dtype)
            if layer in modality.attention_layers(self.plan.tier):
                attention = data_attention(encoder.layers[layer], rows, bias)
                yield attended_name(step.modality, layer), stored(attention.attended, self.plan.dtype)
                yield logsumexp_name(step.modality, layer), stored(attention.logsumexp, "float32")

    def _check_size(self, step: Step, shape: tuple[int, ...]) -> None:
        if shape != self._image_shape:
            names = self._splits[step.split].images[step.start : step.stop]
            raise DataError(
                f"{self.sources.images.location}: images {names[0]!r} to {names[-1]!r} are processed to shape {shape}, "
                f"others to {self._image_shape}; expected an image processor that brings all images to one size"
            )


def _reserve(descriptor: int, size_bytes: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size_bytes)
    else:
        os.truncate(descriptor, size_bytes)  # macOS; there a disk that is too small is noticed on the way


def _image_sizes(sources: Sources) -> tuple[tuple[int, ...], int]:
    """Shape of the pixels of an image, and S."""
    split = next(iter(sources.dataset.splits.values()))
    pixels = pixel_values([split.images[0]], 1, sources)
    with torch.inference_mode():
        encoder = sources.image_encoder
        tokens = encoder.embed(pixels.to(next(encoder.parameters()).device))
    return tuple(pixels.shape[1:]), int(tokens.shape[1])


def _stored(values: Tensor, dtype: str, encoder: Encoder) -> NDArray[np.generic]:
    if not values.is_floating_point():
        ids: NDArray[np.generic] = values.cpu().numpy().astype(dtype)
        return ids
    lowest, highest = (abs(value.item()) for value in values.aminmax())  # both NaN if any value is
    limit = float(np.finfo(dtype).max)
    if not (lowest <= limit and highest <= limit):
        largest = lowest if math.isnan(lowest) else max(lowest, highest)
        hint = "; set features.dtype: float32" if math.isfinite(largest) else ""
        raise NotFiniteError(
            f"a feature of {type(encoder.model).__name__} is not finite in {dtype}: the largest is {largest:g}, "
            f"allowed is up to {limit:g}{hint}"
        )
    array: NDArray[np.generic] = values.to(getattr(torch, dtype)).cpu().contiguous().numpy()
    return array


def forget_progress(directory: Path) -> None:
    """Leave nothing in a folder that a build could go on from."""
    (directory / _PROGRESS).unlink(missing_ok=True)
    sync_directory(directory)
