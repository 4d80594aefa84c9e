"""The section `data` of a search file for a table in memory, or for a folder."""

import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from nas.config.choices import COLUMNS, Task
from nas.config.data_schema import DataConfig
from nas.config.load import parse_data
from nas.data.readers.base import load_reader
from nas.run.api.given_table import GivenTable
from nas.run.api.input_folder import PICTURES, TABLE, keep_input
from nas.run.proposal.columns import TableColumns, find_columns
from nas.run.proposal.images import find_place
from nas.run.proposal.search_file import missing_splits

_FIRST_ROWS = 2_000
_SAVED = ("dataset_dict.json", "state.json")


def table_section(columns: TableColumns, data: DataConfig | None = None) -> dict[str, Any]:
    """Return the section for a table, with its place and its splits if these are known.

    Args:
        columns: The columns of the table.
        data: What was found out about it; None before it is written.
    """
    section: dict[str, Any] = {"columns": {role: getattr(columns, role) for role in COLUMNS}}
    if columns.label is None:
        section["task"] = "retrieval"
    if columns.label_separator is not None:
        section |= {"labels": "several", "label_separator": columns.label_separator}
    if data is not None:
        section |= {"manifest": data.manifest, "images": data.images}
        section |= {} if data.delimiter is None else {"delimiter": data.delimiter}
        missing = {split: getattr(data.held_out, split) for split in sorted(data.held_out.model_fields_set)}
        section |= {"held_out": missing} if missing else {}
    return section


def data_of_path(path: Path, section: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """Return the section for a folder: a saved data set, Parquet files, or images in folders.

    Args:
        path: The folder.
        section: What the configuration has for it, without a place.
        columns: The columns that are named.

    Raises:
        DataError: If it cannot be read.
        ConfigError: If the section does not fit it.
    """
    is_saved = any((path / name).exists() for name in _SAVED) or any(path.rglob("*.parquet"))
    given = {"reader": "datasets" if is_saved else "image_folder", **section, "folder": str(path)}
    if columns:
        given["columns"] = dict(columns)
    if "held_out" not in given:
        raw = load_reader(parse_data(given, source="data", base_directory=Path.cwd())).find_samples()
        given |= {"held_out": missing} if (missing := missing_splits(raw)) else {}
    return given


def keep_table(
    table: GivenTable,
    *,
    images: Path | None,
    columns: Mapping[str, str],
    task: Task | None,
    directory: Callable[[TableColumns], Path],
    note: Callable[[str], None],
) -> tuple[Path, Path]:
    """Keep a table in the run directory, with the pictures that it holds.

    Args:
        table: The table.
        images: The folder or ZIP file that its paths are relative to; found if None.
        columns: The names of columns by role; the others are found.
        task: The task; None for retrieval where no column looks like one of labels.
        directory: Function that returns the run directory, after it has checked everything else.
        note: The receiver of messages.

    Returns:
        The kept table, and the place of its images.

    Raises:
        ArgumentError: If the columns or the images are not found.
        DataError: If a cell cannot be used; names the row.
        StudyError: If the run directory holds a run on other data.
    """
    first = [_with_marks(row) for row in itertools.islice(table.rows(), _FIRST_ROWS)]
    found = find_columns(first, columns, task)
    cells = [row.get(found.image) for row in table.rows()]
    names = [str(os.fspath(cell)) for cell in cells if isinstance(cell, str | os.PathLike)]
    place, rename = None, None
    if len(names) == len(cells):
        place, rename = _place_of(names, images)
    elif images is not None:
        table = replace(table, rows=partial(_below, table.rows, found.image, images))
    kept = Path(os.path.abspath(keep_input(directory(found), table, found, rename=rename, note=note)))
    return kept / TABLE, place if place is not None else kept / PICTURES


def _with_marks(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with a mark in place of each picture, by which its column is found."""
    is_plain = (str, os.PathLike, bytes, Mapping, list, tuple)
    return {
        name: str(os.fspath(cell))
        if isinstance(cell, os.PathLike)
        else {}
        if hasattr(cell, "getbands") or (hasattr(cell, "ndim") and cell.ndim > 1 and not isinstance(cell, is_plain))
        else cell
        for name, cell in row.items()
    }


def _place_of(names: list[str], images: Path | None) -> tuple[Path, Callable[[str], str]]:
    """Return the place of images, and the function that makes their paths relative to it."""
    if images is None and all(map(os.path.isabs, names)):
        images = Path(os.path.commonpath([os.path.dirname(name) for name in names]))
    if images is not None and all(map(os.path.isabs, names)):
        root = str(images)
        return images, lambda name: os.path.relpath(name, root) if name.startswith(f"{root}{os.sep}") else name
    place, _ = find_place(Path.cwd() / TABLE, names, images)
    return Path(os.path.abspath(place)), str


def _below(rows: Callable[[], Iterator[dict[str, Any]]], column: str, images: Path) -> Iterator[dict[str, Any]]:
    """Yield rows whose paths of images are below a folder."""
    for row in rows():
        cell = row.get(column)
        yield {**row, column: images / cell} if isinstance(cell, str | os.PathLike) else row
