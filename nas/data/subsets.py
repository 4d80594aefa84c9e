"""Choose a part of a data set: half of the classes, or a few samples of each class, for protocols of transfer."""

import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from nas.common.errors import DataError
from nas.common.seeds import seed_from
from nas.config.choices import ClassHalf
from nas.config.data_schema import DataConfig
from nas.data.labels import composed
from nas.data.samples import RawDataset, RawSample, shortened_list

_MIN_CLASSES = 4
"""The smallest number of classes of which both halves have something to tell apart."""


def half_of_classes(class_names: Sequence[str], half: ClassHalf) -> tuple[str, ...]:
    """Return the base or the novel classes, in the given order.

    Base classes are the first half of the classes sorted by name, with the middle one, as in CoOp's code (Zhou et al.,
    IJCV 2022), which the papers after it follow.

    Args:
        class_names: The names of all classes.
        half: `base`, `novel`, or `all` for all of them.
    """
    base = set(sorted(class_names)[: math.ceil(len(class_names) / 2)])
    wanted = {"all": set(class_names), "base": base, "novel": set(class_names) - base}[half]
    return tuple(name for name in class_names if name in wanted)


def choose_classes(raw: RawDataset, class_names: Sequence[str], half: ClassHalf) -> RawDataset:
    """Keep the samples of half of the classes, whose names the data set then has.

    Args:
        raw: The data set, with all of its splits.
        class_names: The names of all classes.
        half: The half.

    Raises:
        DataError: If a half has fewer than two classes, or a sample may have several labels.
    """
    if half == "all":
        return raw
    if raw.has_several_labels:
        raise DataError(f"{raw.source}: data.classes: samples have several labels; expected all, got {half}")
    if len(class_names) < _MIN_CLASSES:
        raise DataError(
            f"{raw.source}: data.classes: too few classes for two halves; expected at least {_MIN_CLASSES}, got "
            f"{len(class_names)}"
        )
    names = half_of_classes(class_names, half)
    kept = set(map(composed, names))
    splits = {
        split: [sample for sample in samples if sample.labels[0] in kept] for split, samples in raw.splits.items()
    }
    note = f"data.classes: {half}: {len(names)} of {len(class_names)} classes are used"
    return replace(raw, splits=splits, class_names=names, notes=[*raw.notes, note])


def choose_shots(raw: RawDataset, config: DataConfig) -> RawDataset:
    """Keep a number of samples of each class in train and validation, where the search file limits them.

    Args:
        raw: The data set, with all of its splits.
        config: The `data` section of the search file.

    Returns:
        The data set, with a note about each split that was limited.

    Raises:
        DataError: If a sample may have several labels.
    """
    counts = {"train": ("shots", config.shots), "validation": ("validation_shots", config.validation_shots)}
    splits, notes = dict(raw.splits), list(raw.notes)
    for split, (key, count) in counts.items():
        if count is None or split not in splits:
            continue
        if raw.has_several_labels:
            raise DataError(f"{raw.source}: data.{key}: samples have several labels; expected null, got {count}")
        samples = splits[split]
        chosen = few_of_each_class([sample.labels[0] for sample in samples], count, config.shots_seed)
        splits[split] = [samples[position] for position in chosen]
        notes.append(_note(f"data.{key}: {count}", split, samples, len(chosen), count))
    return replace(raw, splits=splits, notes=notes)


def few_of_each_class(labels: Sequence[str], count: int, seed: int) -> list[int]:
    """Return the positions of some samples of every class, in ascending order.

    Fewer are a part of more, and those of a class do not depend on other classes.

    Args:
        labels: The class of every sample, (N,).
        count: The number of samples of a class; all of a class with fewer.
        seed: The seed of the draw.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for position, label in enumerate(labels):
        members[label].append(position)
    chosen: list[int] = []
    for label, positions in members.items():
        random.Random(seed_from(seed, "shots", label)).shuffle(positions)
        chosen += positions[:count]
    return sorted(chosen)


def _note(key: str, split: str, samples: Sequence[RawSample], kept: int, count: int) -> str:
    sizes: dict[str, int] = defaultdict(int)
    for sample in samples:
        sizes[sample.labels[0]] += 1
    small = [f"{label} ({size})" for label, size in sorted(sizes.items()) if size < count]
    fewer = f"; {len(small)} of {len(sizes)} classes have fewer: {shortened_list(small)}" if small else ""
    return f"{key}: {kept:,} of {len(samples):,} {split} samples are used{fewer}"
