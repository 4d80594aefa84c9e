"""Value classes of a data set: as a reader finds it, and as the program uses it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nas.common.boundary import shortened
from nas.search.metric_registry import LabelKind

if TYPE_CHECKING:
    from torch import Tensor

_MAX_LISTED = 200
"""Characters of each name in a list: enough for a path and the rows that it is in."""
SPLITS = ("train", "validation", "test")
SPLIT_NAMES = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation"}
SPLIT_NAMES |= {"dev": "validation", "test": "test"}
"""Names of splits in published data sets → names in this program."""

Labels = NDArray[np.int64] | NDArray[np.float32]
"""What a sample is evaluated by; see `label_kind`.

Class indices, int64, (N,); for multi-label data 1 for each label of a sample, float32, (N, C); for retrieval the number
of its picture and of its text, int64, (N, 2): samples with an equal number have an equal picture or text.
"""


def label_kind(labels: "Labels | Tensor") -> LabelKind:
    """Return what labels are: one class for each sample, any number of classes, or a pair of items of retrieval.

    Args:
        labels: The labels, as an array or a tensor.
    """
    if labels.ndim == 1:
        return "single"
    return "multiple" if "float" in str(labels.dtype) else "pairs"


class RawSample(NamedTuple):
    """One sample as a reader finds it.

    Args:
        image: Path of the image within the image source of the data set.
        text: The text; may be empty.
        labels: The class names: exactly one, or any number for multi-label data; none for retrieval.
        place: The place of the sample in its file, for messages: "row 5".
    """

    image: str
    text: str
    labels: tuple[str, ...]
    place: str


@dataclass(frozen=True)
class RawDataset:
    """A data set as a reader finds it.

    Args:
        source: File or folder, for messages.
        splits: All samples by split; keys are from `SPLITS`.
        has_several_labels: Whether a sample may have any number of labels instead of exactly one.
        class_names: The classes in order, if the data set fixes them; otherwise None, and those of train are used.
        left_out: Number of samples left out, by reason.
        notes: What is worth knowing about the files, one line each.
    """

    source: str
    splits: Mapping[str, Sequence[RawSample]]
    has_several_labels: bool = False
    class_names: tuple[str, ...] | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Samples:
    """The samples of one split, in the order of their source.

    Args:
        images: Image paths, one per sample; several samples may share an image.
        texts: Texts, one per sample; may be empty.
        labels: See `Labels`.
        places: The place of each sample in its file, for messages; see `RawSample`. Empty if unknown.
    """

    images: tuple[str, ...]
    texts: tuple[str, ...]
    labels: Labels
    places: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.texts)

    def without(self, images: Collection[str]) -> "Samples":
        """Return these samples except those of the given images."""
        kept = [index for index, image in enumerate(self.images) if image not in images]
        return Samples(
            images=tuple(self.images[index] for index in kept),
            texts=tuple(self.texts[index] for index in kept),
            labels=self.labels[kept],
            places=tuple(self.places[index] for index in kept) if self.places else (),
        )


@dataclass(frozen=True)
class Dataset:
    """The requested splits of a data set.

    Args:
        class_names: Class names in the order of their indices; none for retrieval.
        splits: Samples by split.
        left_out: Number of samples left out, by reason, over all splits.
        duplicate_count: Number of samples that are in more than one split.
        notes: What is worth knowing about the files, one line each.
    """

    class_names: tuple[str, ...]
    splits: Mapping[str, Samples]
    left_out: Mapping[str, int] = field(default_factory=dict)
    duplicate_count: int = 0
    notes: Sequence[str] = ()


def class_counts(labels: Labels, num_classes: int) -> NDArray[np.int64]:
    """Return the number of samples of every class, (C,)."""
    if labels.ndim == 2:
        counts: NDArray[np.int64] = labels.sum(axis=0, dtype=np.float64).astype(np.int64)
        return counts
    return np.bincount(labels.astype(np.int64), minlength=num_classes)


def shortened_list(names: Sequence[str], count: int = 5) -> str:
    """Return the first few names, each shortened, separated by commas, for messages."""
    return ", ".join(shortened(name, _MAX_LISTED) for name in names[:count]) + (", …" if len(names) > count else "")
