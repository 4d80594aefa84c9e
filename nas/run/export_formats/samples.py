"""The samples that a written file is checked with: those of a split, or random ones where no data are given."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image

from nas.config.data_schema import DataConfig
from nas.data.dataset import open_dataset_images
from nas.data.images import ImageSource
from nas.run.evaluate import ALL, read_samples
from nas.run.export_formats.graph import InputBatch
from nas.run.exported_model import ExportedModel

T = TypeVar("T")

MAX_SAMPLES = 256
"""The number of samples of the validation split that are checked; of a larger one, every n-th."""

LARGE_BATCH = 32
_BATCH_SIZES = (LARGE_BATCH, 1, 2, 5)
_RANDOM_SAMPLES = 64


class CheckedSamples:
    """Samples in batches of different sizes, with texts of different lengths, the shortest and the longest among them.

    Args:
        exported: The model.
        data: The data set; None for random samples.
        split: The name of its split, or `ALL`.

    Raises:
        DataError: If the split cannot be used.
    """

    def __init__(self, exported: ExportedModel, data: DataConfig | None, split: str = "validation") -> None:
        self._exported = exported
        self._split: _Split | None = None
        if data is None:
            self.count, self.source = _RANDOM_SAMPLES, f"{_RANDOM_SAMPLES} random samples"
            return
        samples, _ = read_samples(data, split, exported.class_names)
        total = len(samples)
        chosen = np.linspace(0, total - 1, min(total, MAX_SAMPLES)).round().astype(int)
        pairs = [(samples.images[index], samples.texts[index]) for index in chosen]
        if not exported.preprocessor.adds_tokens:  # the model takes no text without a token
            pairs = [pair for pair in pairs if len(exported.preprocessor.token_ids([pair[1]])[0])]
        self.count = len(pairs)
        self._split = _Split(open_dataset_images(data), pairs)
        self.source = f"{self.count} of {total} samples" if split == ALL else f"{self.count} of {total} {split} samples"

    def batches(self) -> Iterator[InputBatch]:
        """Yield the batches, the first with `LARGE_BATCH` samples if there are that many."""
        edges = [[1], [self._exported.preprocessor.max_text_tokens]]
        if self._split is None:
            lengths = np.random.default_rng(1).integers(1, edges[1][0] + 1, self.count - len(edges))
            yield from _random_batches(self._exported, [*_groups(lengths.tolist()), *edges])
            return
        preprocessor, images = self._exported.preprocessor, self._split.images
        for part in _groups(self._split.pairs):
            pixels = preprocessor.pixel_values([images.open(name) for name, _ in part])
            ids, mask = preprocessor.tokenize([text for _, text in part])
            yield InputBatch(pixels, ids, mask.to(torch.int64))
        yield from _random_batches(self._exported, edges)


class _Split(NamedTuple):
    """The pictures of a split, by their names, and its pairs of a picture and a text."""

    images: ImageSource
    pairs: list[tuple[str, str]]


def _groups(entries: Sequence[T]) -> Iterator[list[T]]:
    """Yield entries in groups of different sizes."""
    rest = iter(entries)
    for size in itertools.cycle(_BATCH_SIZES):
        group = list(itertools.islice(rest, size))
        if not group:
            return
        yield group


def _random_batches(exported: ExportedModel, groups: Iterable[Sequence[int]]) -> Iterator[InputBatch]:
    """Yield random pictures, with texts of random tokens, given the lengths of the texts of each batch."""
    generator, preprocessor = np.random.default_rng(0), exported.preprocessor
    vocabulary = int(exported.model.config.text_config["vocab_size"])
    for lengths in groups:
        pictures = [Image.fromarray(generator.integers(0, 256, (64, 48, 3), dtype=np.uint8)) for _ in lengths]
        ids, mask = preprocessor.pad([generator.integers(0, vocabulary, length, dtype=np.int32) for length in lengths])
        yield InputBatch(preprocessor.pixel_values(pictures), ids, mask.to(torch.int64))
