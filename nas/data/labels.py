"""Spell labels in one form of Unicode, and find classes that differ in what readers hardly see."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from nas.data.samples import RawDataset, RawSample, shortened_list


def composed(label: str) -> str:
    """Return a label in the composed form of Unicode (NFC): systems differ in the form that they write."""
    return label if label.isascii() else unicodedata.normalize("NFC", label)


def with_composed_labels(raw: RawDataset) -> RawDataset:
    """Return a data set with all labels in composed form, and a note if any had another, or if classes look alike."""
    changed: set[str] = set()
    splits: dict[str, Sequence[RawSample]] = {}
    known: set[str] = set()
    for name, samples in raw.splits.items():
        splits[name] = [_composed_sample(sample, changed) for sample in samples]
        known.update(label for sample in splits[name] for label in sample.labels)
    notes = list(raw.notes)
    if changed:
        notes.append(
            f"{raw.source}: labels in another form of Unicode are taken in composed form (NFC): "
            f"{shortened_list(sorted(map(composed, changed)))}"
        )
    notes += [
        f"{raw.source}: the labels {' and '.join(map(repr, names))} differ only in case, blanks or invisible "
        "characters, and are different classes"
        for names in _alike(known)
    ]
    class_names = None if raw.class_names is None else tuple(map(composed, raw.class_names))
    return replace(raw, splits=splits, class_names=class_names, notes=notes)


def _composed_sample(sample: RawSample, changed: set[str]) -> RawSample:
    labels = tuple(map(composed, sample.labels))
    if labels == sample.labels:
        return sample
    changed.update(before for before, after in zip(sample.labels, labels, strict=True) if before != after)
    return sample._replace(labels=tuple(dict.fromkeys(labels)))


def _alike(labels: Iterable[str]) -> list[list[str]]:
    groups: Mapping[str, list[str]] = defaultdict(list)
    for label in sorted(labels):
        groups[_skeleton(label)].append(label)
    return [group for group in groups.values() if len(group) > 1]


def _skeleton(label: str) -> str:
    """Return a label without what readers do not see or hardly notice."""
    text = unicodedata.normalize("NFKC", label).casefold()
    return " ".join("".join(c for c in text if unicodedata.category(c) != "Cf").split())


def nearest_class(label: str, class_names: Iterable[str]) -> str | None:
    """Return the class that an unknown label differs from only in case, blanks or invisible characters, if any."""
    wanted = _skeleton(label)
    return next((name for name in class_names if _skeleton(name) == wanted), None)
