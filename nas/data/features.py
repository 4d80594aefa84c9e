"""Base features on disk: what the frozen layers below the fusion layer say of every sample, computed once.

They depend on no trained parameter, so all candidates and workers share them, memory-mapped. The folder's name is the
hash of everything that the numbers depend on; a folder under its final name is complete, because it is renamed to it
last.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.data.images import ImageSource
from nas.data.manifest import Dataset, Samples
from nas.data.preprocessing import Preprocessor
from nas.encoders import FrozenEncoder, padding_bias, weights_digest
from nas.errors import DataError
from nas.files import sync_directory, write_atomically
from nas.fusion import first_fusing_layers

FORMAT = 1
_BUILD_BATCH = 32

OnProgress = Callable[[int, int], None]
"""Called with samples done and samples in all."""


@dataclass(frozen=True)
class Batch:
    """Some samples at one fusion layer, padded to the longest text among them.

    Args:
        image_tokens: z, (B, S, D_img), float32.
        text_tokens: t, (B, T, D_txt), float32.
        text_mask: (B, T), true where there is a token; None where nothing is padded.
        labels: Class indices, int64, (B,).
    """

    image_tokens: Tensor
    text_tokens: Tensor
    text_mask: Tensor | None
    labels: Tensor


class FeatureSplit:
    """Features of one split, read from memory-mapped files."""

    def __init__(self, directory: Path, layers: Mapping[int, tuple[int, int]]) -> None:
        def mapped(name: str) -> NDArray[np.float16]:
            array: NDArray[np.float16] = np.load(directory / name, mmap_mode="r")
            return array

        self._layers = layers
        self._image = {layer: mapped(f"image_{layer:02}.npy") for layer in {image for image, _ in layers.values()}}
        self._text = {layer: mapped(f"text_{layer:02}.npy") for layer in {text for _, text in layers.values()}}
        self._image_index: NDArray[np.int64] = np.load(directory / "image_index.npy")
        self._offsets: NDArray[np.int64] = np.load(directory / "text_offsets.npy")
        self.labels: NDArray[np.int64] = np.load(directory / "labels.npy")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def text_lengths(self) -> NDArray[np.int64]:
        """Tokens of every sample's text, (N,)."""
        return np.diff(self._offsets)

    @property
    def image_token_count(self) -> int:
        """S."""
        return int(next(iter(self._image.values())).shape[1])

    def batch(self, indices: Sequence[int] | NDArray[np.int64], fusion_layer: int) -> Batch:
        """Read some samples at the layer where an architecture starts to fuse."""
        image_layer, text_layer = self._layers[fusion_layer]
        chosen = np.asarray(indices, dtype=np.int64)
        lengths = self.text_lengths[chosen]
        source = self._text[text_layer]
        text = np.zeros((len(chosen), int(lengths.max()), source.shape[1]), dtype=np.float32)
        for row, (index, length) in enumerate(zip(chosen, lengths, strict=True)):
            text[row, :length] = source[self._offsets[index] : self._offsets[index] + length]
        mask = None if lengths.min() == lengths.max() else torch.from_numpy(np.arange(lengths.max()) < lengths[:, None])
        return Batch(
            image_tokens=torch.from_numpy(self._image[image_layer][self._image_index[chosen]].astype(np.float32)),
            text_tokens=torch.from_numpy(text),
            text_mask=mask,
            labels=torch.from_numpy(self.labels[chosen]),
        )


class FeatureStore:
    """A complete folder of features.

    Raises:
        DataError: If the folder is not one, or was made by another version.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            meta = json.loads((directory / "features.json").read_text())
            if meta["format"] != FORMAT:
                raise ValueError(f"its format is {meta['format']}, this version reads {FORMAT}")
            layers = {int(key): (int(value[0]), int(value[1])) for key, value in meta["layers"].items()}
            self.class_names: tuple[str, ...] = tuple(meta["class_names"])
            self.splits = {split: FeatureSplit(directory / split, layers) for split in meta["splits"]}
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"{directory}: is no usable folder of features: {error}; delete it to have it rebuilt"
            ) from error

    @property
    def size_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.directory.rglob("*.npy"))


def open_or_build(
    *,
    dataset: Dataset,
    images: ImageSource,
    preprocessor: Preprocessor,
    image_encoder: FrozenEncoder,
    text_encoder: FrozenEncoder,
    fusion_layers: Sequence[int],
    cache_directory: Path,
    on_progress: OnProgress,
) -> FeatureStore:
    """The features of a data set at every fusion layer, from the cache or computed now.

    Stored as float16; text padding is not stored.

    Args:
        dataset: Its splits are stored.
        images: Where the images lie.
        preprocessor: Turns images and texts into tensors.
        image_encoder: Frozen, float32.
        text_encoder: Frozen, float32.
        fusion_layers: Every L_f that will be asked for.
        cache_directory: Holds one folder a key.
        on_progress: Called as samples are done; not at all when the features are found.

    Raises:
        DataError: If an image cannot be read, a feature does not fit float16, or the disk is full.
    """
    layers = {layer: first_fusing_layers(image_encoder, text_encoder, layer) for layer in sorted(fusion_layers)}
    key = _key(dataset, images, preprocessor, image_encoder, text_encoder, layers)
    directory = cache_directory / "features" / key
    if directory.is_dir():
        return FeatureStore(directory)
    temporary = directory.with_name(f".{key}.{uuid.uuid4().hex}")
    done, total = 0, sum(len(samples) for samples in dataset.splits.values())
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        for split, samples in dataset.splits.items():
            before = done

            def advance(count: int, before: int = before) -> None:
                on_progress(before + count, total)

            (temporary / split).mkdir(parents=True)
            _build_split(temporary / split, samples, images, preprocessor, image_encoder, text_encoder, layers, advance)
            done += len(samples)
        meta = {"format": FORMAT, "layers": layers, "splits": list(dataset.splits), "class_names": dataset.class_names}
        write_atomically(temporary / "features.json", json.dumps(meta, indent=1).encode())
        try:
            temporary.rename(directory)
        except OSError:
            if not directory.is_dir():  # otherwise another process has built the same folder meanwhile
                raise
        sync_directory(directory.parent)
    except OSError as error:
        raise DataError(f"{cache_directory}: the features cannot be stored: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return FeatureStore(directory)


def _key(
    dataset: Dataset,
    images: ImageSource,
    preprocessor: Preprocessor,
    image_encoder: FrozenEncoder,
    text_encoder: FrozenEncoder,
    layers: Mapping[int, tuple[int, int]],
) -> str:
    digest = hashlib.sha256(f"{FORMAT} {sorted(layers.items())} {dataset.class_names}".encode())
    for part in (weights_digest(image_encoder), weights_digest(text_encoder), preprocessor.fingerprint()):
        digest.update(part.encode())
    for split, samples in dataset.splits.items():
        digest.update(split.encode())
        digest.update(samples.labels.tobytes())
        for image, text in zip(samples.images, samples.texts, strict=True):
            digest.update(f"{image}\0{images.fingerprint(image)}\0{text}\0".encode())
    return digest.hexdigest()[:32]


@torch.inference_mode()
def _build_split(
    directory: Path,
    samples: Samples,
    images: ImageSource,
    preprocessor: Preprocessor,
    image_encoder: FrozenEncoder,
    text_encoder: FrozenEncoder,
    layers: Mapping[int, tuple[int, int]],
    on_progress: Callable[[int], None],
) -> None:
    names = list(dict.fromkeys(samples.images))  # one image may serve many samples; it is stored once
    position = {name: index for index, name in enumerate(names)}
    np.save(directory / "image_index.npy", np.array([position[name] for name in samples.images], dtype=np.int64))
    np.save(directory / "labels.npy", samples.labels)

    image_layers = sorted({image for image, _ in layers.values()})
    text_layers = sorted({text for _, text in layers.values()})
    image_share = len(samples) / 2 / max(len(names), 1)
    image_files: dict[int, NDArray[np.float16]] = {}
    for start in range(0, len(names), _BUILD_BATCH):
        chosen = names[start : start + _BUILD_BATCH]
        rows = image_encoder.embed(preprocessor.pixel_values([images.open(name) for name in chosen]))
        for layer, values in _rows_before(image_encoder, rows, None, image_layers):
            if layer not in image_files:
                image_files[layer] = np.lib.format.open_memmap(
                    directory / f"image_{layer:02}.npy",
                    mode="w+",
                    dtype=np.float16,
                    shape=(len(names), *values.shape[1:]),
                )
            image_files[layer][start : start + len(chosen)] = _half(values, image_encoder)
        on_progress(int((start + len(chosen)) * image_share))
    for file in image_files.values():
        file.flush()  # type: ignore[attr-defined]

    lengths: list[int] = []
    text_files = {layer: _GrowingArray(directory / f"text_{layer:02}.npy", text_encoder.width) for layer in text_layers}
    for start in range(0, len(samples), _BUILD_BATCH):
        ids, mask = preprocessor.tokens(samples.texts[start : start + _BUILD_BATCH])
        lengths.extend(mask.sum(dim=1).tolist())
        rows = text_encoder.embed(ids)
        for layer, values in _rows_before(text_encoder, rows, padding_bias(mask, rows.dtype), text_layers):
            text_files[layer].append(_half(values[mask], text_encoder))
        on_progress(len(samples) // 2 + (start + len(mask)) // 2)
    for array in text_files.values():
        array.close()
    np.save(directory / "text_offsets.npy", np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    for path in directory.iterdir():
        with path.open("rb") as handle:
            os.fsync(handle.fileno())


def _rows_before(
    encoder: FrozenEncoder, rows: Tensor, bias: Tensor | None, layers: Sequence[int]
) -> Iterable[tuple[int, Tensor]]:
    """The rows as each of the given layers (ascending) reads them."""
    start = 0
    for layer in layers:
        rows = encoder.run(rows, bias, start=start, stop=layer)
        start = layer
        yield layer, rows


def _half(values: Tensor, encoder: FrozenEncoder) -> NDArray[np.float16]:
    half: NDArray[np.float16] = values.to(torch.float16).numpy()
    if not np.isfinite(half).all():
        raise DataError(
            f"a feature of {type(encoder.model).__name__} is not finite in float16: the largest is "
            f"{values.abs().max().item():g}, allowed is up to {np.finfo(np.float16).max:g}"
        )
    return half


class _GrowingArray:
    """An .npy file of rows whose number is known only at the end."""

    def __init__(self, path: Path, width: int) -> None:
        self.path = path
        self.width = width
        self.count = 0
        self.file = path.with_suffix(".rows").open("wb+")

    def append(self, rows: NDArray[np.float16]) -> None:
        self.file.write(rows.tobytes())
        self.count += len(rows)

    def close(self) -> None:
        self.file.seek(0)
        with self.path.open("wb") as target:
            header = {"descr": "<f2", "fortran_order": False, "shape": (self.count, self.width)}
            np.lib.format.write_array_header_1_0(target, header)
            shutil.copyfileobj(self.file, target, 1 << 20)
        self.file.close()
        self.path.with_suffix(".rows").unlink()
