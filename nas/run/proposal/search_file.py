"""Write the proposed search file, with a comment for every choice."""

import itertools
import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from nas.common.errors import ArgumentError, DataError
from nas.common.host import usable_host_memory
from nas.common.output import visible
from nas.config.choices import COLUMNS, Task
from nas.config.data_schema import ColumnsConfig, DataConfig, HeldOutConfig
from nas.data.images import ImageSource
from nas.data.readers.base import load_reader
from nas.data.readers.tables import read_all_columns
from nas.data.samples import SPLITS, RawDataset
from nas.run.program_name import command_line
from nas.run.proposal.columns import TableColumns, find_columns
from nas.run.proposal.encoders import Proposal, languages_of, propose_image_encoder, propose_text_encoder
from nas.run.proposal.images import are_drawings, find_place

_FIRST_ROWS = 2_000
_DELIMITERS = ("\t", ";", "|")
_HELD_OUT = 0.2
"""The part of the training images that becomes a missing split."""
_BUDGET = "1h"
_NAME = "mine.yaml"
RETRIEVAL_FAMILY = "vse"
"""The family that is proposed for retrieval: it trains projections of any two encoders into one space."""
_WIDTH = 50


@dataclass(frozen=True)
class ExaminedTable:
    """What was found out about a table.

    Args:
        data: The section of the search file, with absolute or given paths.
        columns: The columns.
        raw: All samples.
        images: The source of the images.
        found_share: The part of the first images that it has.
        are_inside: Whether the table holds the images themselves.
    """

    data: DataConfig
    columns: TableColumns
    raw: RawDataset
    images: ImageSource
    found_share: float
    are_inside: bool

    @property
    def is_retrieval(self) -> bool:
        """Whether the rows are pairs without labels."""
        return self.columns.label is None


def propose_search_file(table: Path, *, images: Path | None, columns: Mapping[str, str], folder: Path) -> str:
    """Return a search file for a table, about ten lines of YAML with comments.

    Args:
        table: A CSV, TSV, JSON, JSON Lines or Parquet file with one row per sample.
        images: The folder or ZIP file of its images; found if None.
        columns: The names of columns by role (image, text, label, split); the others are found.
        folder: The folder of the search file, which its paths are relative to.

    Raises:
        ArgumentError: If the columns or the images are not found.
        DataError: If the table cannot be read; names the row.
    """
    found = examine(table, images, columns)
    image, text = propose_encoders(found)
    family = (
        [_commented(f"family: {RETRIEVAL_FAMILY}", "pictures and texts in one space")] if found.is_retrieval else []
    )
    lines = [*_head(table, found), *_data_lines(found, folder), *family, *_encoder_lines(image, text), *_tail()]
    return "\n".join(lines) + "\n"


def propose_encoders(found: ExaminedTable) -> tuple[Proposal, Proposal]:
    """Return an image encoder and a text encoder for a table.

    Args:
        found: The table.
    """
    samples = list(itertools.chain.from_iterable(found.raw.splits.values()))
    memory_bytes = usable_host_memory()
    image = propose_image_encoder(
        are_drawings=are_drawings(found.images, [sample.image for sample in samples]), memory_bytes=memory_bytes
    )
    return image, propose_text_encoder(languages_of([sample.text for sample in samples]), memory_bytes=memory_bytes)


def examine(table: Path, images: Path | None, given: Mapping[str, str], task: Task | None = None) -> ExaminedTable:
    """Find the columns, the images, the splits and the form of the labels of a table.

    Args:
        table: The table.
        images: The folder or ZIP file of its images; found if None.
        given: The names of columns by role; the others are found.
        task: The task; None for retrieval where no column looks like one of labels.

    Raises:
        ArgumentError: If the columns or the images are not found.
        DataError: If the table cannot be read; names the row.
    """
    form = DataConfig(manifest=str(table))
    rows = list(itertools.islice(read_all_columns(table, form), _FIRST_ROWS))
    if not rows:
        raise DataError(f"{table}: has no rows; expected one for each sample")
    if len(rows[0]) == 1 and (delimiter := _other_delimiter(next(iter(rows[0])))):
        form = form.replace(delimiter=delimiter)
        rows = list(itertools.islice(read_all_columns(table, form), _FIRST_ROWS))
    columns = find_columns(rows, given, task)
    cells = [row.get(columns.image) for row in rows]
    are_inside = any(isinstance(cell, bytes | dict) for cell in cells)
    place, share = (
        (table.parent, 1.0) if are_inside else find_place(table, [str(cell).strip() for cell in cells], images)
    )
    data = form.replace(
        task="classification" if columns.label is not None else "retrieval",
        images=str(place),
        columns=ColumnsConfig(image=columns.image, text=columns.text, label=columns.label, split=columns.split),
        labels="one" if columns.label_separator is None else "several",
        label_separator=columns.label_separator or "|",
    )
    reader = load_reader(data)
    raw = reader.find_samples()
    if not raw.splits.get("train"):
        raise ArgumentError(
            f"--split: column {columns.split!r} has no training samples; expected some rows with the split train"
        )
    return ExaminedTable(
        data.replace(held_out=HeldOutConfig.model_validate(missing_splits(raw))),
        columns,
        raw,
        reader.open_images(),
        share,
        are_inside,
    )


def missing_splits(raw: RawDataset) -> dict[str, float]:
    """Return the part of the training images that becomes each split that a data set lacks.

    Args:
        raw: The data set.
    """
    return {split: _HELD_OUT for split in ("validation", "test") if not raw.splits.get(split)}


def _other_delimiter(header: str) -> str | None:
    return next((delimiter for delimiter in _DELIMITERS if delimiter in header), None)


def _head(table: Path, found: ExaminedTable) -> list[str]:
    raw = found.raw
    samples = list(itertools.chain.from_iterable(raw.splits.values()))
    counts = Counter(label for sample in samples for label in sample.labels)
    words = np.array([len(sample.text.split()) for sample in samples])
    splits = ", ".join(f"{len(raw.splits[split])} {split}" for split in SPLITS if raw.splits.get(split))
    texts = f"texts of {_range(words.min(), words.max())} words, median {int(np.median(words))}"
    if found.is_retrieval:
        pictures = len({sample.image for sample in samples})
        what = f"{splits} pairs of {pictures} pictures, without a column of labels (with one: --label COLUMN); {texts}"
    else:
        classes = f"{len(counts)} classes, {_range(min(counts.values()), max(counts.values()))} samples each"
        what = f"{splits} samples; {classes}; {texts}"
    return [
        f"# {visible(table.name)}: {what}.",
        f"# Check it, then search: {command_line('check', _NAME)}; {command_line('search', _NAME)}",
    ]


def _range(least: int, most: int) -> str:
    return f"{least}–{most}" if least < most else str(least)


def _data_lines(found: ExaminedTable, folder: Path) -> list[str]:
    data, columns = found.data, found.columns
    lines = ["data:", f"  manifest: {_path(data.manifest, folder)}"]
    if found.is_retrieval:
        lines.insert(1, _commented("  task: retrieval", "of texts for a picture, of pictures for a text"))
    if not found.are_inside:
        lines.append(_commented(f"  images: {_path(data.images, folder)}", _places_text(found)))
    named = {role: getattr(columns, role) for role in COLUMNS if role != "label" or not found.is_retrieval}
    if named != {role: role for role in named}:
        lines.append(f"  columns: {_plain(named)}")
    if data.delimiter is not None:
        lines.append(f"  delimiter: {_plain(data.delimiter)}")
    if columns.label_separator is not None:
        lines.append(_commented("  labels: several", "of a sample, in one cell"))
        lines.append(f"  label_separator: {_plain(data.label_separator)}")
    if missing := {split: getattr(data.held_out, split) for split in sorted(data.held_out.model_fields_set)}:
        how = "taken from train" if found.is_retrieval else "taken from train, stratified by class"
        lines.append(_commented(f"  held_out: {_plain(missing)}", how))
    return lines


def _places_text(found: ExaminedTable) -> str:
    if found.found_share == 1:
        return "a folder or ZIP file; the first images are in it"
    return f"a folder or ZIP file; has only {found.found_share:.0%} of the first images"


def _encoder_lines(image: Proposal, text: Proposal) -> list[str]:
    lines = [_commented("encoders:", "frozen; a local folder, package:NAME/FOLDER or a Hugging Face hub name")]
    for modality, proposal in (("image", image), ("text", text)):
        lines.append(_commented(f"  {modality}: {proposal.name}", proposal.comment))
    return lines


def _tail() -> list[str]:
    return ["budget:", _commented(f"  time: {_BUDGET}", "or trials: 200; all other keys have defaults")]


def _commented(line: str, comment: str) -> str:
    return f"{line:<{_WIDTH}} # {comment}"


def _path(path: str | None, folder: Path) -> str:
    """Return a path for a search file: relative to its folder where it is below it."""
    whole = Path(os.path.abspath(path or ""))
    root = Path(os.path.abspath(folder))
    return _plain(str(whole.relative_to(root)) if whole.is_relative_to(root) else str(whole))


def _plain(value: Any) -> str:
    """Return a value in YAML on one line."""
    return (
        yaml.safe_dump(value, default_flow_style=True, width=math.inf, sort_keys=False, allow_unicode=True)
        .removesuffix("...\n")
        .strip()
    )
