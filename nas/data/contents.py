"""The content of the data and encoders of a search, as digests: equal contents mean equal features, wherever they are.

Every part of the encoders and every sample has its own digest, so that a message can name what has changed.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.common.boundary import shown
from nas.data.digests import DigestIndex
from nas.data.preprocessing import Preprocessor
from nas.data.samples import Dataset, Samples, label_kind
from nas.models.encoders.base import Encoder
from nas.models.encoders.digests import checkpoint_folder, checkpoint_stamp, config_digest, weights_digest

DATA = "data"
"""The key of the data in `Contents.summary`; the other keys are parts of encoders."""

_FORMAT = 1
_COLUMNS = ("the path of the image", "the content of the image", "the text", "the label")
_CHARACTERS = 32

RowDigests = NDArray[np.uint64]
"""Digests of the image path, image content, text and label of every sample of a split, (N, 4)."""


@dataclass(frozen=True)
class Contents:
    """The content of the data and the encoders of a search.

    Args:
        parts: The digest of each part of the encoders, such as `image_encoder.weights`.
        class_names: The class names in the order of the labels.
        splits: The digests of the samples of each split.
    """

    parts: Mapping[str, str]
    class_names: tuple[str, ...]
    splits: Mapping[str, RowDigests]

    def summary(self) -> dict[str, str]:
        """Return one digest for the data, and one for each part of the encoders."""
        digest = hashlib.sha256(json.dumps(self.class_names).encode())
        for split, rows in self.splits.items():
            digest.update(f"{split} {len(rows)}".encode() + _bytes(rows))
        return {DATA: digest.hexdigest()[:_CHARACTERS], **self.parts}

    def data_as_dict(self) -> dict[str, Any]:
        """Return the data as plain values, from which `changed_samples` finds what has changed."""
        return {
            "format": _FORMAT,
            "class_names": list(self.class_names),
            "splits": {split: base64.b64encode(_bytes(rows)).decode() for split, rows in self.splits.items()},
        }


def _bytes(rows: RowDigests) -> bytes:
    return rows.astype("<u8").tobytes()


def describe_contents(dataset: Dataset, image_digests: Mapping[str, str | None], parts: Mapping[str, str]) -> Contents:
    """Return the content of a data set and of encoders.

    Args:
        dataset: The samples.
        image_digests: The digest of every image; see `nas.data.digests.image_digests`.
        parts: The digests of the encoders; see `encoder_parts`.
    """
    splits = {name: _row_digests(samples, image_digests) for name, samples in dataset.splits.items()}
    return Contents(dict(parts), dataset.class_names, splits)


def _row_digests(samples: Samples, image_digests: Mapping[str, str | None]) -> RowDigests:
    rows = np.empty((len(samples), len(_COLUMNS)), dtype=np.uint64)
    has_labels = label_kind(samples.labels) != "pairs"  # which follow from the contents of images and texts
    for row, (image, text, label) in enumerate(zip(samples.images, samples.texts, samples.labels, strict=True)):
        content = image_digests[image]
        rows[row] = (
            _number(image),
            0 if content is None else int(content[:16], 16),
            _number(text),
            _of_bytes(label.tobytes()) if has_labels else 0,
        )
    return rows


def _number(text: str) -> int:
    return _of_bytes(text.encode("utf-8", "surrogatepass"))


def _of_bytes(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def encoder_parts(
    encoders: tuple[Encoder, Encoder],
    preprocessor: Preprocessor,
    checkpoints: Sequence[str],
    cache_directory: Path | None,
    *,
    verify: bool = False,
) -> dict[str, str]:
    """Return the digest of each part of the encoders.

    Args:
        encoders: The image and the text encoder.
        preprocessor: The image processor and the tokenizer of these encoders.
        checkpoints: The result of `resolve_checkpoint` for each encoder.
        cache_directory: The cache, which keeps the digests of weights by size and modification time of the files; None
            to hash them.
        verify: Whether to hash them, whatever their times.
    """
    image, text = (
        {
            "config": config_digest(encoder.config)[:_CHARACTERS],
            "weights": _weights(encoder, checkpoint, cache_directory, verify)[:_CHARACTERS],
        }
        for encoder, checkpoint in zip(encoders, checkpoints, strict=True)
    )
    image["processor"] = _text_digest(preprocessor.image_fingerprint())
    text["tokenizer"] = _text_digest(preprocessor.text_fingerprint())
    named = (("image_encoder", image), ("text_encoder", text))
    return {f"{encoder}.{part}": digest for encoder, found in named for part, digest in found.items()}


def _text_digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_CHARACTERS]


def _weights(encoder: Encoder, checkpoint: str, cache_directory: Path | None, verify: bool) -> str:
    folder = None if cache_directory is None else checkpoint_folder(checkpoint)
    if folder is None or cache_directory is None:
        return weights_digest(encoder)
    index = DigestIndex(cache_directory, folder, verify=verify)
    name = f"weights of {type(encoder.model).__name__}"
    stamp, modified_ns = checkpoint_stamp(folder)
    digest = index.get(name, stamp)
    if digest is None:
        digest = weights_digest(encoder)
        index.put(name, stamp, digest, modified_ns)
        index.save()
    return digest


def changed_samples(recorded: Mapping[str, Any], dataset: Dataset, contents: Contents) -> Iterator[str]:
    """Yield a line for every kind of change of the data: what has changed, in how many samples, and the first of them.

    Args:
        recorded: The earlier result of `Contents.data_as_dict`.
        dataset: The present samples.
        contents: Their content.

    Raises:
        KeyError, TypeError, ValueError: If the record is damaged.
    """
    if recorded["class_names"] != list(contents.class_names):
        yield f"the classes: {', '.join(recorded['class_names'])} → {', '.join(contents.class_names)}"
        return  # labels are their indices
    for split, rows in contents.splits.items():
        before = np.frombuffer(base64.b64decode(recorded["splits"][split]), "<u8").reshape(-1, len(_COLUMNS))
        shared = min(len(before), len(rows))
        is_changed = before[:shared] != rows[:shared]
        samples = dataset.splits[split]
        if len(before) != len(rows):
            first = int(is_changed.any(axis=1).argmax()) if is_changed.any() else shared
            where = f"; the first difference is at {_place(samples, first)}" if first < len(rows) else ""
            yield f"{split}: {len(before)} samples → {len(rows)}{where}"
            continue
        if is_changed.any() and np.array_equal(_sorted(before), _sorted(rows)):
            first = int(is_changed.any(axis=1).argmax())
            yield f"{split}: the samples are in another order, which batches depend on, from {_place(samples, first)}"
            continue
        for column, what in enumerate(_COLUMNS):
            count = int(is_changed[:, column].sum())
            if count:
                first = int(is_changed[:, column].argmax())
                yield f"{split}: {what} has changed in {count} sample(s), the first in {_place(samples, first)}"


def _sorted(rows: RowDigests) -> RowDigests:
    return rows[np.lexsort(rows.T)]


def _place(samples: Samples, index: int) -> str:
    place = samples.places[index] if samples.places else f"sample {index + 1}"
    return f"{place} ({shown(samples.images[index])})"
