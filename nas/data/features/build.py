"""Compute base features into a folder, in blocks that threads, processes and nodes share, and that survive a kill.

Every file has its full size before the first block, and each block has rows of its own. Blocks are claimed and recorded
through `nas.data.features.blocks`: the rows of all recorded ones are on disk, even after a power failure, and the
others are computed again with the same numbers. Whichever process computes a block, it does so in the same batches.
So a store is equal to the bit to one that a single process has built, with as many threads for each batch and on the
same kind of processor. `features.json`, which makes the folder a store, is written last, with checksums of all files.
"""

import contextlib
import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from nas.common.devices import is_accelerator
from nas.common.files import sync_directory, write_atomically
from nas.config.data_schema import FeaturesConfig
from nas.data.features.blocks import BlockBoard
from nas.data.features.costs import describe_costs
from nas.data.features.crew import BlockWork, BuildCrew
from nas.data.features.inputs import FeatureSources, SplitInputs, pixel_values
from nas.data.features.placing import copied_to, placed_on
from nas.data.features.plan import (
    IMAGE_NAMES,
    IMAGE_PIXELS,
    NOTHING,
    ArrayPlan,
    ModalityPlan,
    choose_plan,
    possible_plans,
)
from nas.data.features.raw_images import join_names
from nas.data.features.threads import BuildLimits, BuildThreads, batch_bytes
from nas.data.features.writer import ArrayFiles
from nas.data.image_sizes import pixel_counts
from nas.models.encoders.base import Encoder

BUILD = "build.json"
_POLL_SECONDS = 0.2

OnProgress = Callable[[int, int], None]
"""Receives the number of images and texts done, and the total."""


class FeatureBuild:
    """The build of one store.

    Args:
        sources: The data and the encoders.
        config: Storage type, disk budget and number of views.
        devices: Further accelerators that compute as well, each with a copy of the encoders.

    Raises:
        DataError: If no tier fits the disk budget.
    """

    def __init__(self, sources: FeatureSources, config: FeaturesConfig, devices: Sequence[torch.device] = ()) -> None:
        self.sources = sources
        self._devices = tuple(devices)
        splits = sources.dataset.splits
        self.views = {name: config.views if name == "train" else 1 for name in splits}
        self._splits = {
            name: SplitInputs(name, samples, sources.preprocessor, self.views[name]) for name, samples in splits.items()
        }
        self._small: dict[str, NDArray[Any]] = {
            f"{split}/{name}.npy": array
            for split, inputs in self._splits.items()
            for name, array in inputs.small_arrays().items()
        }
        if config.storage == "none":
            self._small |= {
                f"{split}/{IMAGE_NAMES}": join_names(inputs.images) for split, inputs in self._splits.items()
            }
        self._image_shape, self.image_token_count, self._image_seconds = _first_image(sources)
        small = [ArrayPlan(name, array.shape, array.dtype.name) for name, array in self._small.items()]
        if config.storage == "none":
            small += [
                ArrayPlan(f"{split}/{IMAGE_PIXELS}", (len(inputs.images),), "int64")
                for split, inputs in self._splits.items()
            ]
        self.plans = possible_plans(self._modalities(), small, config, list(splits))
        self.plan = choose_plan(self.plans, config)
        self._blocks = [block for inputs in self._splits.values() for block in inputs.blocks()]
        self.total = sum(block.count for block in self._blocks)
        """The number of views of images, and of texts."""

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
        return hashlib.sha256(repr((self.plan.arrays, self._blocks)).encode()).hexdigest()

    def identity(self, directory: Path) -> str | None:
        """Return what identifies an earlier build of the same plan; None if it cannot be resumed.

        Args:
            directory: The folder of the build.
        """
        try:
            values = json.loads((directory / BUILD).read_text(encoding="utf-8"))
            is_same = values["plan"] == self._digest and all(
                (directory / array.name).stat().st_size == array.file_bytes for array in self.plan.arrays
            )
            return str(values["build"]) if is_same else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def has_finished_blocks(self, directory: Path) -> bool:
        """Return whether a build has blocks that need not be computed again.

        Args:
            directory: The folder of the build.
        """
        return self.identity(directory) is not None and bool(BlockBoard(directory).finished)

    def start(self, directory: Path) -> None:
        """Create the folder with all files in their full size, which reserves the disk space.

        Args:
            directory: The folder to create.

        Raises:
            DataError: If an image cannot be opened.
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
            if self.plan.tier == NOTHING:
                for split, inputs in self._splits.items():
                    files.write(f"{split}/{IMAGE_PIXELS}", 0, pixel_counts(self.sources.images, inputs.images))
            files.sync()
        BlockBoard.create(directory)
        for path in (*(directory / split for split in self._splits), directory, directory.parent):
            sync_directory(path)
        content = {"plan": self._digest, "build": uuid.uuid4().hex}
        write_atomically(directory / BUILD, json.dumps(content).encode())

    def threads(self, limits: BuildLimits) -> BuildThreads:
        """Return the threads of this process that compute.

        Args:
            limits: The cores and the memory that they may use.
        """
        if is_accelerator(self.sources.device):
            return BuildThreads(1 + len(self._devices), limits.cores)
        encoders = (self.sources.image_encoder, self.sources.text_encoder)
        attention = [len(part.attention_layers(self.plan.tier)) for part in self.plan.modalities]
        image, text = (
            len(part.token_layers(self.plan.tier)) + count
            for part, count in zip(self.plan.modalities, attention, strict=True)
        )
        one_bytes = batch_bytes(
            encoders,
            token_counts=(
                self.image_token_count,
                max(int(inputs.text_lengths.max()) for inputs in self._splits.values()),
            ),
            stored_arrays=(image, text),
            image_shape=self._image_shape,
            has_scores=any(attention),
        )
        return limits.threads(one_bytes)

    def costs(self, threads: BuildThreads) -> str | None:
        """Return one line about what each way to store features costs; None where there is only one.

        Args:
            threads: The threads that compute.
        """
        with placed_on((self.sources.image_encoder, self.sources.text_encoder), self.sources.device):
            return describe_costs(self.plans, self.plan, self.sources, threads, self._image_seconds)

    def run(self, directory: Path, on_progress: OnProgress, threads: BuildThreads) -> None:
        """Compute all remaining blocks in a folder that `start` has created, together with other processes.

        Args:
            directory: The folder.
            on_progress: Callback that receives the numbers of images and texts done and in total.
            threads: The threads of this process that compute.

        Raises:
            DataError: If an image cannot be read, or a feature exceeds the storage type.
            OSError: If a file cannot be written.
        """
        verified: set[int] = set()
        with self._crew(directory, threads) as crew:
            board = crew.board
            on_progress(crew.done, self.total)
            while True:
                with contextlib.closing(crew.compute()) as batches:
                    for _ in batches:
                        on_progress(crew.done, self.total)
                board.refresh()
                if len(board.finished) < len(self._blocks):  # others compute the rest, or die
                    time.sleep(_POLL_SECONDS)
                    on_progress(crew.done, self.total)
                    continue
                received = {block: found for block, found in board.received.items() if block not in verified}
                damaged = [block for block, found in received.items() if not any(map(crew.is_written, found))]
                if not damaged:
                    break
                verified |= received.keys()
                board.forget(damaged)
            on_progress(self.total, self.total)

    def help(self, directory: Path, threads: BuildThreads) -> None:
        """Compute blocks of a build that another process has started, until all are claimed.

        Args:
            directory: The folder of the build.
            threads: The threads of this process that compute.

        Raises:
            DataError: If an image cannot be read, or a feature exceeds the storage type.
            OSError: If a file cannot be written.
        """
        with self._crew(directory, threads) as crew:
            for _ in crew.compute():
                pass

    @contextlib.contextmanager
    def _crew(self, directory: Path, threads: BuildThreads) -> Iterator[BuildCrew]:
        sources = self.sources
        encoders = (sources.image_encoder, sources.text_encoder)
        with (
            ArrayFiles(directory, self.plan.arrays) as files,
            contextlib.closing(BlockBoard(directory)) as board,
            copied_to(encoders, self._devices) as copies,
            placed_on(encoders, sources.device),
        ):
            work = BlockWork(self._blocks, self._splits, sources, self.plan, self._image_shape, copies)
            with contextlib.closing(BuildCrew(work, files, board, threads)) as crew:
                yield crew


def _reserve(descriptor: int, size_bytes: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size_bytes)
    else:
        os.truncate(descriptor, size_bytes)  # macOS, where a full disk is noticed only during the build


def _first_image(sources: FeatureSources) -> tuple[tuple[int, ...], int, float]:
    """Return the shape of the pixel values of an image, its number of tokens, S, and the seconds of decoding it."""
    split = next(iter(sources.dataset.splits.values()))
    started = time.perf_counter()
    pixels = pixel_values([split.images[0]], 1, sources)
    seconds = time.perf_counter() - started
    with torch.inference_mode():
        encoder = sources.image_encoder
        tokens = encoder.embed(pixels.to(next(encoder.parameters()).device))
    return tuple(pixels.shape[1:]), int(tokens.shape[1]), seconds


def delete_progress(directory: Path) -> None:
    """Delete the records of a build, so that it cannot be resumed.

    Args:
        directory: The folder of the build or the finished store.
    """
    (directory / BUILD).unlink(missing_ok=True)  # without it the records count for nothing
    BlockBoard.delete(directory)
