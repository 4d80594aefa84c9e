"""A person's own data set: a CSV or JSON Lines file that names an image, a text, a label and a split a row."""

import csv
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.config import ColumnsConfig, DataConfig
from nas.errors import DataError

SPLITS = ("train", "validation", "test")
_SPLIT_NAMES = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation"}
_SPLIT_NAMES |= {"dev": "validation", "test": "test"}
_LISTED = 5  # how many offenders an error message names


@dataclass(frozen=True)
class Samples:
    """The samples of one split, in the manifest's order.

    Args:
        images: Image paths, one a sample; several samples may share one.
        texts: One a sample; may be empty.
        labels: Class indices, int64, (N,).
    """

    images: tuple[str, ...]
    texts: tuple[str, ...]
    labels: NDArray[np.int64]

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
    """Some splits of a data set; a split that was not asked for is not here."""

    class_names: tuple[str, ...]
    splits: Mapping[str, Samples]


def read_manifest(config: DataConfig, splits: Collection[str], class_names: tuple[str, ...] | None = None) -> Dataset:
    """Read the wanted splits of a manifest; rows of other splits are not kept.

    Args:
        config: Names the file and its columns.
        splits: Which of train, validation and test are wanted.
        class_names: The classes in order, where a model has fixed them; otherwise the sorted labels of train.

    Raises:
        DataError: If the file cannot be read, a row lacks a value, a split has an unknown name or no rows, or a
            label is none of the classes; names file and row.
    """
    path = Path(config.manifest)
    rows: dict[str, list[tuple[str, str, str]]] = {split: [] for split in SPLITS}
    first_seen: dict[str, int] = {}
    for number, row in _rows(path, config.columns):
        split = _SPLIT_NAMES.get(row[config.columns.split].lower())
        if split is None:
            raise DataError(
                f"{path}, row {number}: {config.columns.split} is {row[config.columns.split]!r}; "
                f"expected one of {', '.join(SPLITS)}"
            )
        for column in (config.columns.image, config.columns.label):
            if not row[column]:
                raise DataError(f"{path}, row {number}: {column} is empty; every row needs an image and a label")
        label = row[config.columns.label]
        first_seen.setdefault(label, number)
        rows[split].append((row[config.columns.image], row[config.columns.text], label))

    if class_names is None:
        class_names = tuple(sorted({label for _, _, label in rows["train"]}))
        if len(class_names) < 2:
            raise DataError(f"{path}: the train split has {len(class_names)} class(es); at least 2 are needed")
    index = {name: position for position, name in enumerate(class_names)}
    for split in splits:
        if not rows[split]:
            raise DataError(f"{path}: no row has {config.columns.split} {split!r}")
        for _, _, label in rows[split]:
            if label not in index:
                raise DataError(
                    f"{path}, row {first_seen[label]}: label {label!r} is none of the {len(class_names)} known classes "
                    f"({', '.join(class_names[:_LISTED])}{', …' if len(class_names) > _LISTED else ''})"
                )
    return Dataset(
        class_names=class_names,
        splits={
            split: Samples(
                images=tuple(image for image, _, _ in rows[split]),
                texts=tuple(text for _, text, _ in rows[split]),
                labels=np.array([index[label] for _, _, label in rows[split]], dtype=np.int64),
            )
            for split in splits
        },
    )


def _rows(path: Path, columns: ColumnsConfig) -> Iterator[tuple[int, dict[str, str]]]:
    """Row numbers as an editor shows them (a CSV's header is row 1) and the wanted columns as text."""
    wanted = (columns.image, columns.text, columns.label, columns.split)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() in (".jsonl", ".ndjson"):
                yield from _json_rows(path, file, wanted)
            else:
                yield from _csv_rows(path, file, wanted)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: the manifest cannot be read: {error}") from error


def _csv_rows(path: Path, file: Iterator[str], wanted: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(file)
    header = reader.fieldnames or []
    missing = [column for column in wanted if column not in header]
    if missing:
        raise DataError(
            f"{path}: there is no column {', '.join(map(repr, missing))}; the header has {', '.join(header)}"
        )
    twice = [column for column in wanted if header.count(column) > 1]
    if twice:
        raise DataError(f"{path}: the column {', '.join(map(repr, twice))} is there more than once")
    for row in reader:
        if None in row or any(value is None for value in row.values()):
            raise DataError(f"{path}, row {reader.line_num}: has more or fewer values than the header has columns")
        yield reader.line_num, {column: row[column].strip() for column in wanted}


def _json_rows(path: Path, file: Iterator[str], wanted: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, row {number}: is not JSON: {error}") from error
        missing = [column for column in wanted if not isinstance(row, dict) or column not in row]
        if missing:
            raise DataError(f"{path}, row {number}: there is no key {', '.join(map(repr, missing))}")
        yield number, {column: "" if row[column] is None else str(row[column]).strip() for column in wanted}
