"""Find the columns of image, text, label and split in a table, by their names, then by their values."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from nas.common.boundary import shortened, shown
from nas.common.errors import ArgumentError
from nas.config.choices import COLUMNS, Task
from nas.data.samples import SPLIT_NAMES

Rows = Sequence[Mapping[str, Any]]

_NAMES = {
    "image": ("image", "images", "img", "image_path", "picture", "photo", "file", "filename", "file_name", "path"),
    "text": ("text", "texts", "caption", "title", "description", "sentence", "name"),
    "label": ("label", "labels", "class", "category", "categories", "target", "genre", "genres", "tags"),
    "split": ("split", "subset", "partition", "fold", "set"),
}
"""Usual names of the columns, the surest first."""

_IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"))
_MOST = 0.9
_SEPARATORS = ("|", ";", ",")
_TWICE = 1.0
"""The score of a column of labels whose values occur twice on average; texts are repeated less often."""
_SEVERAL = 0.05
"""The least part of the cells that hold several labels, of a column that may."""


@dataclass(frozen=True)
class TableColumns:
    """The columns of a table and the form of its labels.

    Args:
        image: The column of image paths, or of images.
        text: The column of texts.
        label: The column of labels; None if there is none, so that rows are pairs for retrieval.
        split: The column of splits; None if there is none.
        label_separator: What separates several labels in a cell; None if every sample has one label.
    """

    image: str
    text: str
    label: str | None
    split: str | None
    label_separator: str | None


def find_columns(rows: Rows, given: Mapping[str, str], task: Task | None = None) -> TableColumns:
    """Return the columns of a table.

    Args:
        rows: The first rows, at least one.
        given: The columns that the user has named, by role.
        task: The task; retrieval has no labels. None for retrieval where no column looks like one of labels.

    Raises:
        ArgumentError: If a named column is missing, or none fits a role.
    """
    columns = list(dict.fromkeys(column for row in rows for column in row))
    for role, column in given.items():
        if column not in columns:
            raise ArgumentError(f"--{role}: no such column; expected one of {_listed(columns)}, got {shown(column)}")
    found = dict(given)
    for role in ("split", "image", "label", "text"):  # the surest by their values first
        if role not in found and (role != "label" or task != "retrieval"):
            free = [column for column in columns if column not in found.values()]
            likeliest = _by_name(role, free, rows) or _by_values(role, _candidates(role, free, found, rows), rows)
            if likeliest is not None:
                found[role] = likeliest
    if task is None and "text" not in found and "label" in found and "label" not in given:
        found["text"] = found.pop("label")  # texts that are repeated, and nothing else
    for role in COLUMNS:
        if role not in found and role != "split" and (role != "label" or task == "classification"):
            raise ArgumentError(
                f"--{role}: no column looks like one of {role}s; expected one of {_listed(columns)} (--{role} COLUMN)"
            )
    label = found.get("label")
    separator = None if label is None else label_separator([row.get(label) for row in rows])
    return TableColumns(found["image"], found["text"], label, found.get("split"), separator)


def label_separator(cells: Sequence[Any]) -> str | None:
    """Return what separates the labels in cells that hold several; None if each cell is one label.

    A character that separates labels makes parts that occur in several cells; one inside of names does not.

    Args:
        cells: The cells of the column of labels. Lists are several labels whatever the separator, which is then `|`.
    """
    if any(isinstance(cell, list) for cell in cells):
        return _SEPARATORS[0]
    texts = [str(cell) for cell in cells if cell is not None]
    for separator in _SEPARATORS:
        several = [text for text in texts if separator in text]
        parts = {part.strip() for text in texts for part in text.split(separator)}
        if len(several) > _SEVERAL * len(texts) and len(parts) < len(set(texts)):
            return separator
    return None


def _listed(columns: Sequence[str]) -> str:
    return shortened(", ".join(map(repr, columns)), 300)


def _by_name(role: str, columns: Sequence[str], rows: Rows) -> str | None:
    """Return the column with the surest name for a role; a split also needs values that are splits."""
    for name in _NAMES[role]:
        for column in columns:
            if column.lower().replace(" ", "_") == name and (role != "split" or _are_splits(_values(rows, column))):
                return column
    return None


def _candidates(role: str, columns: Sequence[str], found: Mapping[str, str], rows: Rows) -> list[str]:
    """Return the columns that may have a role by their values: labels are neither texts nor other names of pictures."""
    if role != "label":
        return list(columns)
    text = None if "text" in found else _by_name("text", columns, rows)
    is_text = text is not None and _label_score(_values(rows, text)) < _TWICE
    image = found.get("image")
    return [
        column
        for column in columns
        if not (is_text and column == text) and (image is None or not _names_pictures(rows, column, image))
    ]


def _names_pictures(rows: Rows, column: str, image: str) -> bool:
    """Return whether a column has one value for each path of an image, and no value twice: a number of the picture."""
    pairs = {(row.get(image), str(row.get(column))) for row in rows if isinstance(row.get(image), str)}
    images, values = (set(side) for side in zip(*pairs, strict=True)) if pairs else (set(), set())
    return len(pairs) == len(images) == len(values) > 1


def _by_values(role: str, columns: Sequence[str], rows: Rows) -> str | None:
    """Return the column whose values are most like those of a role; None if none are."""
    scores = {column: _SCORES[role](_values(rows, column)) for column in columns}
    best = max(scores, key=lambda column: scores[column], default=None)
    return best if best is not None and scores[best] > 0 else None


def _values(rows: Rows, column: str) -> list[Any]:
    return [row[column] for row in rows if row.get(column) not in (None, "")]


def _are_splits(values: Sequence[Any]) -> bool:
    return bool(values) and all(str(value).strip().lower() in SPLIT_NAMES for value in values)


def _split_score(values: Sequence[Any]) -> float:
    return float(_are_splits(values))


def _image_score(values: Sequence[Any]) -> float:
    """Return the part of the values that are images, or paths of images; 0 if not nearly all are."""
    images = sum(
        isinstance(value, bytes | dict) or PurePosixPath(str(value)).suffix.lower() in _IMAGE_SUFFIXES
        for value in values
    )
    return images / len(values) if values and images >= _MOST * len(values) else 0.0


def _label_score(values: Sequence[Any]) -> float:
    """Return how often a value is repeated on average, less one; 0 for a column of a single value."""
    distinct = len(set(map(str, values)))
    return len(values) / distinct - 1 if distinct > 1 else 0.0


def _text_score(values: Sequence[Any]) -> float:
    """Return the mean number of letters; 0 for numbers."""
    texts = [value for value in values if isinstance(value, str)]
    return statistics.fmean(sum(map(str.isalpha, text)) for text in texts) if texts else 0.0


_SCORES: Mapping[str, Callable[[Sequence[Any]], float]] = {
    "split": _split_score,
    "image": _image_score,
    "label": _label_score,
    "text": _text_score,
}
