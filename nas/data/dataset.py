"""Samples of a data set, however it is distributed: what readers find, and what is made of it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nas.common.errors import DataError

SPLITS = ("train", "validation", "test")
SPLIT_NAMES = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation"}
SPLIT_NAMES |= {"dev": "validation", "test": "test"}
"""What data sets call their splits → what they are called here."""
LISTED = 5
"""How many offenders an error message names."""


Labels = NDArray[np.int64] | NDArray[np.float32]
"""Class indices, int64, (N,); or, where a sample may have several, 1 for each that it has, float32, (N, C)."""


class Sample(NamedTuple):
    """One sample as a reader finds it.

    Args:
        image: Path, as its source of images knows it.
        text: May be empty.
        labels: One, or where a sample may have several, any number.
        place: Where it was found, for messages: "row 5".
    """

    image: str
    text: str
    labels: tuple[str, ...]
    place: str


@dataclass(frozen=True)
class Found:
    """What a reader has found.

    Args:
        source: File or folder, for messages.
        splits: All of them, by their names here.
        has_several_labels: Whether a sample may have several labels, or none; else each has one.
        class_names: Where the data set fixes them; else those of train are taken.
        left_out: Why samples were left out → how many.
    """

    source: str
    splits: Mapping[str, Sequence[Sample]]
    has_several_labels: bool = False
    class_names: tuple[str, ...] | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Samples:
    """The samples of one split, in the order of their source.

    Args:
        images: Image paths, one a sample; several samples may share one.
        texts: One a sample; may be empty.
        labels: As `Labels` says.
    """

    images: tuple[str, ...]
    texts: tuple[str, ...]
    labels: Labels

    def __len__(self) -> int:
        return len(self.texts)

    def without(self, images: Collection[str]) -> "Samples":
        """These samples, less those of the given images."""
        kept = [index for index, image in enumerate(self.images) if image not in images]
        return Samples(
            images=tuple(self.images[index] for index in kept),
            texts=tuple(self.texts[index] for index in kept),
            labels=self.labels[kept],
        )


@dataclass(frozen=True)
class Dataset:
    """Some splits of a data set; a split that was not asked for is not here.

    Args:
        class_names: In the order of their indices.
        splits: By name.
        left_out: Why samples were left out → how many, of all splits.
        duplicate_count: Samples that are in more than one split.
    """

    class_names: tuple[str, ...]
    splits: Mapping[str, Samples]
    left_out: Mapping[str, int] = field(default_factory=dict)
    duplicate_count: int = 0


def assemble(
    found: Found,
    splits: Collection[str],
    class_names: tuple[str, ...],
    *,
    allow_duplicates: bool,
    copies: Mapping[str, str] = MappingProxyType({}),
) -> Dataset:
    """The wanted splits of what a reader has found, checked as a whole.

    Args:
        found: By a reader.
        splits: Which of train, validation and test are wanted.
        class_names: The classes in order.
        allow_duplicates: Whether a sample may be in more than one split.
        copies: Images that are copies of others → those.

    Raises:
        DataError: If a wanted split is empty, a label is none of the classes, or a sample is in two splits.
    """
    index = {name: position for position, name in enumerate(class_names)}
    for split in splits:
        if not found.splits.get(split):
            way_out = "" if split == "train" else f"; data.held_out.{split} (for instance 0.2) takes it from train"
            raise DataError(f"{found.source}: there is no sample in the {split} split{way_out}")
    _check_labels(found, splits, class_names)
    twice = _duplicates(found, copies)
    if twice and not allow_duplicates:
        listed = ", ".join(twice[:LISTED]) + (", …" if len(twice) > LISTED else "")
        raise DataError(
            f"{found.source}: {len(twice)} sample(s) are in more than one split: {listed} (set data.allow_duplicates: "
            "true to use them all the same)"
        )
    return Dataset(
        class_names=class_names,
        splits={
            split: Samples(
                images=tuple(sample.image for sample in found.splits[split]),
                texts=tuple(sample.text for sample in found.splits[split]),
                labels=_labels(found.splits[split], index, found.has_several_labels),
            )
            for split in splits
        },
        left_out=found.left_out,
        duplicate_count=len(twice),
    )


def classes_of_train(found: Found) -> tuple[str, ...]:
    """The sorted labels of train.

    Raises:
        DataError: If there are fewer than two.
    """
    names = tuple(sorted({label for sample in found.splits.get("train", ()) for label in sample.labels}))
    if len(names) < 2:
        raise DataError(f"{found.source}: the train split has {len(names)} class(es); at least 2 are needed")
    return names


def _check_labels(found: Found, splits: Collection[str], class_names: Sequence[str]) -> None:
    known = set(class_names)
    for split in splits:
        for sample in found.splits[split]:
            for label in sample.labels:
                if label not in known:
                    listed = ", ".join(class_names[:LISTED]) + (", …" if len(class_names) > LISTED else "")
                    raise DataError(
                        f"{found.source}, {sample.place}: label {label!r} is none of the {len(class_names)} known "
                        f"classes ({listed})"
                    )


def check_characters(found: Found) -> None:
    """JSON can hold half of a character, which nobody who reads texts or opens files takes.

    Raises:
        DataError: If a sample does; names it.
    """
    for samples in found.splits.values():
        for sample in samples:
            for text in (sample.text, sample.image, *sample.labels):
                try:
                    text.encode()
                except UnicodeEncodeError as error:
                    raise DataError(
                        f"{found.source}, {sample.place}: {text[:60]!r} holds half of a character at place "
                        f"{error.start}; expected whole ones"
                    ) from error


def _duplicates(found: Found, copies: Mapping[str, str]) -> list[str]:
    """The same image with the same text in two splits, which would be learned in one and asked in the other."""
    first: dict[tuple[str, str], tuple[str, str]] = {}
    twice: list[str] = []
    for split, samples in found.splits.items():
        for sample in samples:
            image = copies.get(sample.image, sample.image)
            place = first.setdefault((image, sample.text), (split, sample.place))
            if place[0] != split:
                twice.append(f"{sample.image} with one text ({place[0]}, {place[1]}; {split}, {sample.place})")
    return twice


def _labels(samples: Sequence[Sample], index: Mapping[str, int], has_several: bool) -> Labels:
    if not has_several:
        return np.array([index[sample.labels[0]] for sample in samples], dtype=np.int64)
    labels = np.zeros((len(samples), len(index)), dtype=np.float32)
    for row, sample in enumerate(samples):
        labels[row, [index[label] for label in sample.labels]] = 1.0
    return labels


def summary(dataset: Dataset) -> list[str]:
    """What a data set holds, one statement a line: samples, images, balance of the classes, lengths of the texts."""
    lines = []
    for name, samples in dataset.splits.items():
        counts = class_counts(samples.labels, len(dataset.class_names))
        rarest, commonest = int(counts.argmin()), int(counts.argmax())
        words = np.array([len(text.split()) for text in samples.texts])
        parts = [
            f"{name}: {len(samples)} samples",
            f"{len(set(samples.images))} images",
            f"{len(dataset.class_names)} classes of {int(counts[rarest])} ({dataset.class_names[rarest]}) to "
            f"{int(counts[commonest])} ({dataset.class_names[commonest]})",
            f"texts of {int(words.min())} to {int(words.max())} words, {int(np.median(words))} in the middle",
        ]
        if samples.labels.ndim == 2:
            parts.append(f"{float(samples.labels.sum(axis=1).mean()):.2f} labels each")
        empty = int((words == 0).sum())
        lines.append(", ".join(parts) + (f", {empty} empty" if empty else ""))
    if dataset.duplicate_count:
        lines.append(f"{dataset.duplicate_count} samples are in more than one split")
    if dataset.left_out:
        lines.append("left out: " + ", ".join(f"{count} {reason}" for reason, count in dataset.left_out.items()))
    return lines


def class_counts(labels: Labels, num_classes: int) -> NDArray[np.int64]:
    """Samples of every class, (C,)."""
    if labels.ndim == 2:
        counts: NDArray[np.int64] = labels.sum(axis=0, dtype=np.float64).astype(np.int64)
        return counts
    return np.bincount(labels.astype(np.int64), minlength=num_classes)
