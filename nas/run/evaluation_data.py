"""Describe the data that an exported model is evaluated on, or that it predicts."""

from collections.abc import Mapping
from pathlib import Path

from nas.config.data_schema import ColumnsConfig, DataConfig
from nas.config.load import parse_data
from nas.config.reader_registry import READERS
from nas.data.readers.base import load_reader
from nas.run.exported_model import exported_form

_TABLES = (".csv", ".tsv", ".tab", ".json", ".jsonl", ".ndjson")


def evaluation_data(
    model: Path, path: Path, *, reader: str | None, images: Path | None, columns: Mapping[str, str]
) -> tuple[DataConfig, bool]:
    """Return a data set in the format of an exported model's training data, with some values replaced.

    Args:
        model: The folder of the exported model.
        path: The manifest or the folder of the data set.
        reader: The reader of the data set; None for the model's own.
        images: The folder or ZIP file of the images; None for the place that the reader assumes.
        columns: The names of columns that differ from those of the training data.

    Returns:
        The data set, and whether it lacks the column of splits that the training data have, so that all its samples
        are meant. A column that the caller names must exist.

    Raises:
        DataError: If the data set cannot be read.
        ExportError: If the format of the training data cannot be read.
        ConfigError: If the values do not describe a data set.
    """
    data = described_data(model, path, reader=reader, images=images, columns=columns)
    if "split" in columns:
        return data, False
    opened = load_reader(data)
    if opened.has_split_folders():  # the training data may have had a column instead
        return data.replace(columns=data.columns.replace(split=ColumnsConfig().split)), False
    if not opened.lacks_split_column():
        return data, False
    return data.replace(columns=data.columns.replace(split=None)), True


def described_data(
    model: Path, path: Path, *, reader: str | None, images: Path | None, columns: Mapping[str, str]
) -> DataConfig:
    """Return a data set in the format of an exported model's training data, with some values replaced.

    A table that the reader of the training data does not read is taken as a manifest. See `evaluation_data`.

    Raises:
        ExportError: If the format of the training data cannot be read.
        ConfigError: If the values do not describe a data set.
    """
    form = exported_form(model)
    name = reader or ("manifest" if path.suffix.lower() in _TABLES and path.is_file() else form["reader"])
    if name != form["reader"]:
        task = {"task": form.get("task", "classification")}
        form = {"reader": name, **task, "labels": form["labels"]} if READERS[name].has_label_keys else {"reader": name}
    values = {
        **form,
        "manifest" if READERS[name].uses_manifest else "folder": str(path),
        "allow_duplicates": True,  # only one split is read
    }
    if images is not None:
        values["images"] = str(images)
    named = {**form.get("columns", {}), **columns}
    if named:
        values["columns"] = named
    return parse_data(values, source="--data", base_directory=Path.cwd())
