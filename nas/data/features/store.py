"""Base features on disk: what the frozen layers below the first that a model trains say of every sample, computed once.

They depend on no trained parameter, so all candidates and workers share them, memory-mapped. Built in
`nas.data.features.build`; here they are read.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.common.errors import DataError
from nas.data.features.files import Contents, read_contents
from nas.data.features.plan import attended_name, logsumexp_name, tokens_name
from nas.data.samples import Labels
from nas.models.encoders.base import Encoder
from nas.models.fusion.data_attention import DataAttention
from nas.search.space import RAW, EntryLayers

Encoders = tuple[Encoder, Encoder]

_Reader = Callable[[NDArray[Any]], Tensor]


@dataclass(frozen=True)
class Batch:
    """Some samples, as the layers that a model starts from read them; padded with zeros to the longest text among them.

    Args:
        image_tokens: z, (B, S, D_img), in the store's type (float32 where they were computed from an earlier layer's);
            pixel values (B, 3, height, width) or nothing (B, 0) where the model reads those.
        text_tokens: t, (B, T, D_txt), likewise; token ids (B, T), int64, or nothing (B, 0).
        text_mask: (B, T), true where there is a token; None where nothing is padded.
        labels: Class indices, int64, (B,); or 1 for each label that a sample has, float32, (B, C).
        image_attention: What z attends to in itself at the first fusing layer, where that is stored.
        text_attention: What t attends to in itself, likewise.
    """

    image_tokens: Tensor
    text_tokens: Tensor
    text_mask: Tensor | None
    labels: Tensor
    image_attention: DataAttention | None = None
    text_attention: DataAttention | None = None

    def to(self, device: torch.device) -> "Batch":
        """The same on a device."""

        def moved(attention: DataAttention | None) -> DataAttention | None:
            if attention is None:
                return None
            return DataAttention(attention.attended.to(device), attention.logsumexp.to(device))

        return Batch(
            image_tokens=self.image_tokens.to(device),
            text_tokens=self.text_tokens.to(device),
            text_mask=None if self.text_mask is None else self.text_mask.to(device),
            labels=self.labels.to(device),
            image_attention=moved(self.image_attention),
            text_attention=moved(self.text_attention),
        )


class FeatureSplit:
    """Features of one split, read from memory-mapped files.

    Args:
        directory: Of the split, in a store.
        contents: Of the store.
        encoders: Image and text encoder, for layers that are not stored.
    """

    def __init__(self, directory: Path, contents: Contents, encoders: Encoders | None) -> None:
        self._directory = directory
        self._encoders = encoders
        self.view_count = contents.views[directory.name]
        """Views of every image: view 0 is the image itself, the others are augmented."""
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
        """Tokens of every sample's text, (N,)."""
        self.labels: Labels = np.load(directory / "labels.npy")

    def _mapped(self, name: str) -> NDArray[Any]:
        # As a plain array: numpy's own class for memory maps makes every operation slower.
        mapped: NDArray[Any] = np.asarray(np.load(self._directory / name, mmap_mode="r"))
        return mapped

    def __len__(self) -> int:
        return len(self.labels)

    def batch(
        self,
        indices: Sequence[int] | NDArray[np.int64],
        reads: EntryLayers,
        views: Sequence[int] | NDArray[np.int64] | None = None,
    ) -> Batch:
        """Read some samples where a model starts to compute.

        Args:
            indices: Which samples, (B,).
            reads: Layers of both encoders, from the first that the store was built for on.
            views: Which view of each sample's image, (B,), below `view_count`; None for the images themselves.

        Raises:
            ValueError: If there is no such view, or the layer has to be computed and the store was opened without
                encoders.
        """
        chosen = np.asarray(indices, dtype=np.int64)
        image_rows = self._image_rows(chosen, views)
        lengths = self.text_lengths[chosen]
        longest = int(lengths.max())
        is_token = np.arange(longest) < lengths[:, None]  # (B, T)
        # Rows of all texts in the file; where nothing is stored the first, which is made zero afterwards.
        text_rows = np.where(is_token, self._text_starts[chosen][:, None] + np.arange(longest), 0)
        is_padded = int(lengths.min()) < longest
        mask = torch.from_numpy(is_token) if is_padded else None

        def texts(array: NDArray[Any]) -> Tensor:
            rows = array.take(text_rows.ravel(), axis=0).reshape(*text_rows.shape, *array.shape[1:])
            if is_padded:
                rows[~is_token] = 0
            return torch.from_numpy(rows)

        def images(array: NDArray[Any]) -> Tensor:
            return torch.from_numpy(array.take(image_rows, axis=0))

        return Batch(
            image_tokens=self._tokens_at("image", reads.image, images, None, len(chosen)),
            text_tokens=self._tokens_at("text", reads.text, texts, mask, len(chosen)),
            text_mask=mask,
            labels=torch.from_numpy(self.labels[chosen]),
            image_attention=self._attention_at("image", reads.image, images),
            text_attention=self._attention_at("text", reads.text, texts),
        )

    def _tokens_at(self, modality: str, layer: int | None, read: _Reader, mask: Tensor | None, count: int) -> Tensor:
        """What enters a layer, read, or computed from what enters the last one before it that is stored."""
        if layer is None:
            return torch.empty(count, 0)
        stored = self._stored(modality, layer)
        tokens = read(self._tokens[modality][stored])
        if stored == layer:
            return tokens.to(torch.int64) if tokens.dtype == torch.int32 else tokens
        return _computed(self._needed_encoder(modality, layer), tokens, mask, start=stored, stop=layer)

    def _attention_at(self, modality: str, layer: int | None, read: _Reader) -> DataAttention | None:
        arrays = None if layer is None else self._attention[modality].get(layer)
        return None if arrays is None else DataAttention(*map(read, arrays))

    def _image_rows(self, chosen: NDArray[np.int64], views: Sequence[int] | NDArray[np.int64] | None) -> Any:
        """Places of the samples' images in the files, where the views of an image stand together."""
        first = self._image_index[chosen] * self.view_count
        if views is None:
            return first
        offsets = np.asarray(views, dtype=np.int64)
        if offsets.shape != first.shape or offsets.min() < 0 or offsets.max() >= self.view_count:
            raise ValueError(f"views must be {len(first)} numbers from 0 to {self.view_count - 1}, got {views}")
        return first + offsets

    def _stored(self, modality: str, layer: int) -> int:
        """The last layer not behind the given one whose input rows are stored."""
        # Pixel values and token ids are not tokens that layers could be run on.
        return max(stored for stored in self._tokens[modality] if stored == layer or RAW < stored < layer)

    def _needed_encoder(self, modality: str, layer: int) -> Encoder:
        if self._encoders is None:
            raise ValueError(
                f"{self._directory}: {modality} tokens at layer {layer} are not stored but computed from an earlier "
                "layer's; open the store with its encoders"
            )
        return self._encoders[0 if modality == "image" else 1]


@torch.no_grad()
def _computed(encoder: Encoder, rows: Tensor, mask: Tensor | None, *, start: int, stop: int) -> Tensor:
    weight = next(encoder.parameters())
    rows = rows.to(device=weight.device, dtype=weight.dtype)
    mask = mask if mask is None else mask.to(weight.device)
    bias = encoder.data_bias(mask, rows.shape[1], rows.dtype)
    rows = encoder.run(rows, bias, start=start, stop=stop)
    return rows if mask is None else rows.masked_fill(~mask[:, :, None], 0)


class FeatureStore:
    """A complete folder of features.

    Args:
        directory: What `open_or_build` returned as `directory`.
        encoders: Image and text encoder, needed where not every layer is stored.

    Raises:
        DataError: If the folder is not one, was made by another version, or has files of another size.
    """

    def __init__(self, directory: Path, encoders: Encoders | None = None) -> None:
        self.directory = directory
        self.contents = read_contents(directory)
        try:
            self.splits: Mapping[str, FeatureSplit] = {
                split: FeatureSplit(directory / split, self.contents, encoders) for split in self.contents.views
            }
        except (OSError, ValueError) as error:
            raise DataError(f"{directory}: is no usable folder of features: {error}") from error

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the labels."""
        return self.contents.class_names

    @property
    def image_token_count(self) -> int:
        """S."""
        return self.contents.image_token_count

    @property
    def size_bytes(self) -> int:
        return sum(facts.size_bytes for facts in self.contents.files.values())
