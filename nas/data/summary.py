"""Summarize a data set for the user before a search starts."""

import numpy as np

from nas.data.samples import Dataset, Samples, class_counts, label_kind


def summarize(dataset: Dataset) -> list[str]:
    """Return one line per split (samples, images, class balance, text lengths), what was left out, and notes."""
    lines = [_summarize_split(name, samples, dataset.class_names) for name, samples in dataset.splits.items()]
    if dataset.duplicate_count:
        lines.append(f"{dataset.duplicate_count} samples are in more than one split")
    if dataset.left_out:
        lines.append("left out: " + ", ".join(f"{count} {reason}" for reason, count in dataset.left_out.items()))
    return [*lines, *dataset.notes]


def _summarize_split(name: str, samples: Samples, class_names: tuple[str, ...]) -> str:
    words = np.array([len(text.split()) for text in samples.texts])
    empty_count, kind = int((words == 0).sum()), label_kind(samples.labels)
    if kind == "pairs":
        images, texts = (len(np.unique(column)) for column in samples.labels.T)
        parts = [f"{len(samples)} pairs of {images} different pictures and {texts} different texts"]
    else:
        parts = [
            f"{len(samples)} samples, {len(set(samples.images))} images",
            f"{len(class_names)} classes, {_class_balance(samples, class_names)}",
        ]
    parts.append(
        f"texts: {_range(int(words.min()), int(words.max()))} words, median {int(np.median(words))}"
        + (f", {empty_count} empty" if empty_count else "")
    )
    if kind == "multiple":
        parts.insert(2, f"{float(samples.labels.sum(axis=1).mean()):.2f} labels per sample")
    return f"{name}: {'; '.join(parts)}"


def _class_balance(samples: Samples, class_names: tuple[str, ...]) -> str:
    counts = class_counts(samples.labels, len(class_names))
    rarest, commonest = int(counts.argmin()), int(counts.argmax())
    if counts[rarest] == counts[commonest]:
        return f"{int(counts[rarest])} samples each"
    return (
        f"{int(counts[rarest])} ({class_names[rarest]}) to {int(counts[commonest])} ({class_names[commonest]}) "
        "samples each"
    )


def _range(least: int, most: int) -> str:
    return f"{least}–{most}" if least < most else str(least)
