"""Samples of Parquet files with the images inside."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nas.common.errors import DataError
from nas.config.data_schema import ColumnsConfig, DataConfig
from nas.data.inputs import Input
from nas.data.readers.parquet_files import (
    class_names,
    first_rows_with_image,
    holds_images,
    open_parquet,
    read_cells,
)
from nas.data.readers.rows import as_text, decoded_labels, parse_split, row_inputs
from nas.data.readers.tables import column_names, input_columns, match_columns
from nas.data.samples import SPLITS, RawSample


def read_image_table(root: Path, parts: Mapping[str, Sequence[Path]], config: DataConfig) -> dict[str, list[RawSample]]:
    """Return the samples of every split; an image is named by its part and the first row that has it.

    Args:
        root: The file or folder of the data set, for messages.
        parts: The files of each split, or all under ''.
        config: The `data` section of the search file.

    Raises:
        DataError: If a file is damaged, lacks a column, or has no images.
    """
    splits: dict[str, list[RawSample]] = {split: [] for split in SPLITS}
    for part, paths in parts.items():
        columns = config.columns.replace(split=None) if part else config.columns
        names = column_names(columns)
        for path in paths:
            _check_table(path, names, columns)
        known = None if columns.label is None else class_names(paths[0], columns.label)
        first_rows = first_rows_with_image(tuple(paths), columns.image)
        kept = [name for name in names if name != columns.image]
        for number, row in enumerate(read_cells(paths, kept)):
            place = f"{part}, row {number + 1}" if part else f"row {number + 1}"
            where = f"{root}, {place}"
            labels = decoded_labels(row, known, config, where)
            text = as_text(row[columns.text], f"{where}: {columns.text}")
            sample = RawSample(f"{part}/{first_rows[number]}", text, labels, place)
            splits[part or parse_split(row, columns, where)].append(sample)
    return splits


def image_table_inputs(
    root: Path, parts: Mapping[str, Sequence[Path]], columns: ColumnsConfig, id_column: str | None
) -> Iterator[Input]:
    """Yield the rows of Parquet files with the images inside, numbered from 1.

    Args:
        root: The file or folder of the data set, for messages.
        parts: The files of each part.
        columns: The names of the columns.
        id_column: The column of ids; None for none.

    Raises:
        DataError: If a file is damaged, lacks a column, or has no images.
    """
    columns = columns.replace(split=None)
    names, numbers = input_columns(columns, id_column), itertools.count(1)
    for part, paths in parts.items():
        for path in paths:
            _check_table(path, names, columns)
        kept = [name for name in names if name != columns.image]
        rows = (
            (next(numbers), {**row, columns.image: f"{part}/{index}"})
            for index, row in enumerate(read_cells(paths, kept))
        )
        yield from row_inputs(rows, columns, id_column, str(root))


def _check_table(path: Path, names: Sequence[str], columns: ColumnsConfig) -> None:
    """Check that a file has the columns to read, and images.

    Raises:
        DataError: If it lacks one.
    """
    with open_parquet(path) as table:
        match_columns(path, table.schema_arrow.names, names, columns)
    if not holds_images(path, columns.image):
        raise DataError(
            f"{path}: column {columns.image!r} has no images; expected cells with the content of image files"
        )
