"""Read the hidden states of the frozen encoder layers, cached on disk by `nas.data.features.build`.

They depend on no trained parameter, so all candidates and workers share them, memory-mapped.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.common.devices import CPU
from nas.common.errors import DataError
from nas.data.features.eight_bits import from_stored
from nas.data.features.files import StoreContents, read_contents
from nas.data.features.frozen import FrozenLayers
from nas.data.features.plan import NOTHING, attended_name, logsumexp_name, readout_name, tokens_name
from nas.data.features.raw_images import RawImages, SplitImages
from nas.data.samples import Labels
from nas.models.encoders.base import Encoder
from nas.models.fusion.data_attention import DataAttention
from nas.models.fusion.readouts import Readout
from nas.models.fusion.token_places import TokenPlaces
from nas.search.space import MODALITIES, RAW, EntryLayers

Encoders = tuple[Encoder, Encoder]

_Reader = Callable[[NDArray[Any] | None], Tensor]


@dataclass(frozen=True)
class Batch:
    """A batch of samples, as inputs of the entry layers of a model; padded with zeros to the longest text.

    Args:
        image_tokens: z, (B, S, D_img), float16 or float32 as they are stored (float16 if as int8; float32 if recomputed
            from an earlier layer); pixel values (B, 3, height, width) for a model that trains the whole encoder; (B, 0)
            for a model without images.
        text_tokens: t, (B, T, D_txt), likewise; token ids (B, T), int64; or (B, 0).
        text_mask: (B, T), true for tokens; None without padding.
        labels: Class indices, int64, (B,); for multi-label data, 1 for each label of a sample, float32, (B, C); for
            retrieval, the items of each pair, int64, (B, 2).
        image_attention: Attention of z to itself at the first fusing layer, if stored.
        text_attention: Attention of t to itself at the first fusing layer, if stored.
        text_places: The places of the tokens among the padding; None without padding.
        image_layers: The frozen layers that `image_tokens` have yet to pass; the tokens are then pixel values, or the
            input of an earlier layer. None where they are what the model reads.
        text_layers: The frozen layers that `text_tokens` have yet to pass, likewise.
    """

    image_tokens: Tensor
    text_tokens: Tensor
    text_mask: Tensor | None
    labels: Tensor
    image_attention: DataAttention | None = None
    text_attention: DataAttention | None = None
    text_places: TokenPlaces | None = None
    image_layers: FrozenLayers | None = None
    text_layers: FrozenLayers | None = None

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device, after the layers that it has yet to pass there.

        The host does not wait for copies from pinned memory.

        Args:
            device: The target device, that of these layers.
        """
        return self._map(lambda values: values.to(device, non_blocking=True)).computed()

    def computed(self) -> "Batch":
        """Return the batch after the layers that it has yet to pass, computed without a graph."""
        if self.image_layers is None and self.text_layers is None:
            return self
        image, text = self.image_tokens, self.text_tokens
        return replace(
            self,
            image_tokens=image if self.image_layers is None else self.image_layers(image, None),
            text_tokens=text if self.text_layers is None else self.text_layers(text, self.text_mask),
            image_layers=None,
            text_layers=None,
        )

    def pinned(self) -> "Batch":
        """Return the batch with all that is on the host in memory from which an accelerator copies by itself."""
        return self._map(lambda values: values.pin_memory() if values.device == CPU else values)

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        def of_attention(attention: DataAttention | None) -> DataAttention | None:
            if attention is None:
                return None
            return DataAttention(function(attention.attended), function(attention.logsumexp))

        places = self.text_places
        return Batch(
            image_tokens=function(self.image_tokens),
            text_tokens=function(self.text_tokens),
            text_mask=None if self.text_mask is None else function(self.text_mask),
            labels=function(self.labels),
            image_attention=of_attention(self.image_attention),
            text_attention=of_attention(self.text_attention),
            text_places=None if places is None else replace(places, index=function(places.index)),
            image_layers=self.image_layers,
            text_layers=self.text_layers,
        )


class FeatureSplit:
    """Features of one split, read from memory-mapped files.

    Args:
        directory: Folder of the split within the store.
        contents: The contents of the store.
        encoders: Image and text encoder, to recompute layers that are not stored; None if that is not needed.
        images: The images, if nothing of them is stored; None if they are not needed.
    """

    def __init__(
        self, directory: Path, contents: StoreContents, encoders: Encoders | None, images: RawImages | None = None
    ) -> None:
        self._directory = directory
        self._encoders = encoders
        self._images = SplitImages(directory, images) if contents.tier == NOTHING else None
        self.largest_picture = 0 if self._images is None else int(self._images.pixel_counts.max())
        """Number of pixels of the largest image that batches decode; 0 where they decode none."""
        self.view_count = contents.views[directory.name]
        """Number of views of every image: view 0 is the image itself, the others are augmented."""
        self._tokens = {
            name: {layer: self._mapped(tokens_name(name, layer)) for layer in layers}
            for name, layers in contents.token_layers.items()
        }
        self._attention = {
            name: {
                layer: (self._mapped(attended_name(name, layer)), self._mapped(logsumexp_name(name, layer)))
                for layer in layers
            }
            for name, layers in contents.attention_layers.items()
        }
        self._image_index: NDArray[np.int64] = np.load(directory / "image_index.npy")
        self._text_starts: NDArray[np.int64] = np.load(directory / "text_starts.npy")
        self.text_lengths: NDArray[np.int64] = np.load(directory / "text_lengths.npy")
        """Number of text tokens of every sample, (N,)."""
        self.text_of_sample: NDArray[np.int64] = np.load(directory / "text_index.npy")
        """The number of each sample's text, (N,): samples whose texts have the same token ids share one."""
        self.labels: Labels = np.load(directory / "labels.npy")
        self._text_rows: NDArray[np.int64] | None = None

    def subset(self, indices: NDArray[np.int64]) -> "FeatureSplit":
        """Return a split of some of the samples, which reads the same files.

        Args:
            indices: The indices of the samples.
        """
        part = copy.copy(self)
        part._image_index = self._image_index[indices]
        part._text_starts = self._text_starts[indices]
        part.text_lengths = self.text_lengths[indices]
        part.labels = self.labels[indices]
        part.text_of_sample = self.text_of_sample[indices]
        part._text_rows = self._rows_of_texts()[indices]
        return part

    def _rows_of_texts(self) -> NDArray[np.int64]:
        """Return the place of each sample's text among all texts, (N,), which are stored in this order."""
        # That of their first tokens.
        return np.argsort(np.argsort(self._text_starts)) if self._text_rows is None else self._text_rows

    def _mapped(self, name: str) -> NDArray[Any]:
        # A plain array: operations on np.memmap are slower.
        mapped: NDArray[Any] = np.asarray(np.load(self._directory / name, mmap_mode="r"))
        return mapped

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_of_sample(self) -> NDArray[np.int64]:
        """The index of each sample's image, (N,): samples may share one."""
        return self._image_index

    def batch(
        self,
        indices: Sequence[int] | NDArray[np.int64],
        entry_layers: EntryLayers,
        views: Sequence[int] | NDArray[np.int64] | None = None,
    ) -> Batch:
        """Return the inputs of a model for some samples.

        Args:
            indices: Indices of the samples, (B,).
            entry_layers: The layers at which the model starts to compute, not before those the store was built for.
            views: Index of the view of each sample's image, (B,), below `view_count`; None for the images themselves.

        Raises:
            ValueError: If a view does not exist, or a layer has to be recomputed and the store was opened without
                encoders.
        """
        chosen = np.asarray(indices, dtype=np.int64)
        image_rows = self._image_rows(chosen, views)
        lengths = self.text_lengths[chosen]
        longest = int(lengths.max())
        is_token = np.arange(longest) < lengths[:, None]  # (B, T)
        # Rows of the texts in the file; padding reads the first row of the file and is set to zero below.
        text_rows = np.where(is_token, self._text_starts[chosen][:, None] + np.arange(longest), 0)
        is_padded = int(lengths.min()) < longest
        mask = torch.from_numpy(is_token) if is_padded else None

        def texts(array: NDArray[Any] | None) -> Tensor:
            assert array is not None
            rows = array.take(text_rows.ravel(), axis=0).reshape(*text_rows.shape, *array.shape[1:])
            if is_padded:
                rows[~is_token] = 0
            return from_stored(torch.from_numpy(rows))

        def images(array: NDArray[Any] | None) -> Tensor:
            if array is not None:
                return from_stored(torch.from_numpy(array.take(image_rows, axis=0)))
            assert self._images is not None  # else everything is stored
            return self._images.pixel_values(self._image_index[chosen], views)

        image_tokens, image_layers = self._tokens_at("image", entry_layers.image, images, len(chosen))
        text_tokens, text_layers = self._tokens_at("text", entry_layers.text, texts, len(chosen))
        batch = Batch(
            image_tokens=image_tokens,
            text_tokens=text_tokens,
            text_mask=mask,
            labels=torch.from_numpy(self.labels[chosen]),
            image_attention=self._attention_at("image", entry_layers.image, images),
            text_attention=self._attention_at("text", entry_layers.text, texts),
            text_places=TokenPlaces.of(is_token) if is_padded else None,
            image_layers=image_layers,
            text_layers=text_layers,
        )
        is_here = all(layers is None or layers.device == CPU for layers in (image_layers, text_layers))
        return batch.computed() if is_here else batch  # on an accelerator, once the batch is there

    def readouts(self, image: Readout, text: Readout) -> tuple[Tensor, Tensor]:
        """Return what is read out of the frozen image and text encoder, for every sample: (N, D_img) and (N, D_txt).

        Args:
            image: The readout of the image encoder.
            text: The readout of the text encoder.
        """
        images = np.load(self._directory / readout_name("image", image))
        texts = np.load(self._directory / readout_name("text", text))
        return torch.from_numpy(images[self._image_index]), torch.from_numpy(texts[self._rows_of_texts()])

    def _tokens_at(
        self, modality: str, layer: int | None, read: _Reader, count: int
    ) -> tuple[Tensor, FrozenLayers | None]:
        """Return the tokens at the last stored layer up to the given one, and the layers that they have yet to pass."""
        if layer is None:
            return torch.empty(count, 0), None
        stored = self._last_stored(modality, layer)
        tokens = read(self._tokens[modality].get(stored))
        tokens = tokens.to(torch.int64) if tokens.dtype == torch.int32 else tokens
        if stored == layer:
            return tokens, None
        return tokens, FrozenLayers(self._needed_encoder(modality, layer), stored, layer)

    def _attention_at(self, modality: str, layer: int | None, read: _Reader) -> DataAttention | None:
        arrays = None if layer is None else self._attention[modality].get(layer)
        return None if arrays is None else DataAttention(*map(read, arrays))

    def _image_rows(self, chosen: NDArray[np.int64], views: Sequence[int] | NDArray[np.int64] | None) -> Any:
        """Return the rows of the chosen views in the arrays, where the views of an image are adjacent."""
        first = self._image_index[chosen] * self.view_count
        if views is None:
            return first
        offsets = np.asarray(views, dtype=np.int64)
        if offsets.shape != first.shape or offsets.min() < 0 or offsets.max() >= self.view_count:
            raise ValueError(
                f"views: invalid indices; expected {len(first)} numbers from 0 to {self.view_count - 1}, got {views}"
            )
        return first + offsets

    def can_read(self, entry_layers: EntryLayers) -> bool:
        """Return whether the inputs of these layers are stored, or can be computed from stored ones."""
        if self._images is not None:
            return entry_layers.text is None or bool(self._tokens["text"])
        return all(
            layer is None or any(stored == layer or RAW < stored < layer for stored in self._tokens[modality])
            for modality, layer in zip(MODALITIES, entry_layers, strict=True)
        )

    def _last_stored(self, modality: str, layer: int) -> int:
        """Return the last layer up to the given one whose tokens are stored."""
        if self._images is not None:
            return RAW
        # RAW counts only for itself: a store with tokens has the encoders without their embeddings.
        return max(stored for stored in self._tokens[modality] if stored == layer or RAW < stored < layer)

    def _needed_encoder(self, modality: str, layer: int) -> Encoder:
        if self._encoders is None:
            raise ValueError(
                f"{self._directory}: {modality} tokens at layer {layer} are not stored; expected encoders to recompute "
                "them from an earlier layer, got None"
            )
        return self._encoders[0 if modality == "image" else 1]


class FeatureStore:
    """A complete store of the features of some splits.

    Args:
        directory: The folder of the store, as `open_or_build` returns it in `directory`.
        encoders: Image and text encoder, needed if not every layer is stored.
        images: The images, needed if nothing of them is stored.

    Raises:
        DataError: If the folder is not a complete store, was written by another version, or has files of another size.
    """

    def __init__(self, directory: Path, encoders: Encoders | None = None, images: RawImages | None = None) -> None:
        self.directory = directory
        self.contents = read_contents(directory)
        try:
            self.splits: Mapping[str, FeatureSplit] = {
                split: FeatureSplit(directory / split, self.contents, encoders, images) for split in self.contents.views
            }
        except (OSError, ValueError) as error:
            raise DataError(f"{directory}: not a usable feature store ({error}); delete it to rebuild it") from error

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in the order of the labels."""
        return self.contents.class_names

    @property
    def image_token_count(self) -> int:
        """Number of tokens of an image, S."""
        return self.contents.image_token_count

    @property
    def longest_text(self) -> int:
        """Number of tokens of the longest text."""
        return max(int(split.text_lengths.max()) for split in self.splits.values())

    @property
    def size_bytes(self) -> int:
        """Total size of all arrays."""
        return sum(facts.size_bytes for facts in self.contents.files.values())
