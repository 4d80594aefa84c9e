"""Describe the data that an exported model is evaluated on."""

from collections.abc import Mapping
from pathlib import Path

from nas.config.data_schema import DataConfig
from nas.config.load import parse_data
from nas.config.reader_registry import READERS
from nas.run.exported_model import exported_form


def evaluation_data(
    model: Path, path: Path, *, reader: str | None, images: Path | None, columns: Mapping[str, str]
) -> DataConfig:
    """Return a data set in the format of an exported model's training data, with some values replaced.

    Args:
        model: The folder of the exported model.
        path: The manifest or the folder of the data set.
        reader: The reader of the data set; None for the model's own.
        images: The folder or ZIP file of the images; None for the place that the reader assumes.
        columns: The names of columns that differ from those of the training data.

    Raises:
        ExportError: If the format of the training data cannot be read.
        ConfigError: If the values do not describe a data set.
    """
    form = exported_form(model)
    name = reader or form["reader"]
    if name != form["reader"]:
        form = {"reader": name, "labels": form["labels"]} if READERS[name].has_label_keys else {"reader": name}
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
