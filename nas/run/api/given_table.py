"""Data that a program holds in memory, as rows: pandas data frames and data sets of Hugging Face."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nas.common.boundary import shown
from nas.common.errors import DataError
from nas.data.readers.rows import decode_label

FRAME = "data frame"
SPLIT = "split"
"""The column with the names of the parts of a data set that has several."""

_MISSING = ("NAType", "NaTType")
_BATCH_ROWS = 256


@dataclass(frozen=True)
class GivenTable:
    """A table in memory.

    Args:
        name: What it is, for messages.
        columns: The names of its columns.
        rows: Function that returns all rows, by column, from the first one on.
    """

    name: str
    columns: tuple[str, ...]
    rows: Callable[[], Iterator[dict[str, Any]]]


def is_frame(data: Any) -> bool:
    """Return whether an object is a pandas data frame, without importing pandas."""
    return hasattr(data, "columns") and hasattr(data, "iloc")


def is_dataset(data: Any) -> bool:
    """Return whether an object is a `Dataset` of Hugging Face, without importing its package."""
    return hasattr(data, "column_names") and hasattr(data, "features") and hasattr(data, "__getitem__")


def given_table(data: Any) -> GivenTable:
    """Return the table that a program has given.

    Args:
        data: A pandas data frame, or a `Dataset` or `DatasetDict` of Hugging Face.

    Raises:
        DataError: If it is something else, has no rows, or two columns of one name.
    """
    if is_frame(data):
        columns = [str(column).strip() for column in data.columns]
        table = GivenTable(FRAME, tuple(columns), lambda: _frame_rows(data, columns))
    elif isinstance(data, Mapping) and data and all(map(is_dataset, data.values())):
        parts = {str(name): part for name, part in data.items()}
        columns = [*dict.fromkeys(column for part in parts.values() for column in part.column_names)]
        columns = [column for column in columns if column != SPLIT] + [SPLIT]
        table = GivenTable("data set", tuple(columns), lambda: _part_rows(parts))
    elif is_dataset(data):
        table = GivenTable("data set", tuple(data.column_names), lambda: _dataset_rows(data))
    else:
        raise DataError(
            "data: not allowed; expected a pandas data frame, a Dataset or DatasetDict of Hugging Face, or the path of "
            f"a table or folder, got {shown(data)} ({type(data).__name__})"
        )
    repeated = [name for name, count in Counter(table.columns).items() if count > 1]
    if repeated:
        raise DataError(f"{table.name}: column {repeated[0]!r} is ambiguous; expected each name once")
    if next(table.rows(), None) is None:
        raise DataError(f"{table.name}: has no rows; expected one for each sample")
    return table


def _frame_rows(frame: Any, columns: list[str]) -> Iterator[dict[str, Any]]:
    for values in frame.itertuples(index=False, name=None):
        yield dict(zip(columns, values, strict=True))


def _part_rows(parts: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, part in parts.items():
        for row in _dataset_rows(part):
            yield {**row, SPLIT: name}


def _dataset_rows(data: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows of a data set, with names in place of class indices, and images as bytes or paths of files."""
    plain = data.with_format(None)  # plain Python values, not arrays
    names: dict[str, list[str]] = {}
    for column, feature in data.features.items():
        if type(feature).__name__ == "Image":
            plain = plain.cast_column(column, type(feature)(decode=False))
        found = getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None)
        if found is not None:
            names[column] = list(found)
    number = 0
    for batch in plain.iter(_BATCH_ROWS):
        for values in zip(*batch.values(), strict=True):
            row = dict(zip(batch, values, strict=True))
            for column, known in names.items():
                row[column] = decode_label(row[column], known, f"data set, row {number}: {column}")
            yield row
            number += 1


def plain_cell(value: Any) -> Any:
    """Return a cell of texts, labels or splits as a value that JSON has; missing values of any kind are None.

    Args:
        value: The cell.

    Raises:
        TypeError: If JSON has no such value.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value).__name__ in _MISSING:
        return None
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, str | int):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, list | tuple | set | frozenset | np.ndarray):
        entries = sorted(value) if isinstance(value, set | frozenset) else list(value)
        return [plain_cell(entry) for entry in entries]
    raise TypeError(f"expected text, a number or a list of them, got {shown(value)} ({type(value).__name__})")
