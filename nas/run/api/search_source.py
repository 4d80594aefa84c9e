"""Make a search file of what a program gives: a configuration in any form, and data in memory or by path."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import yaml

from nas.common.boundary import shown
from nas.common.errors import ArgumentError, ConfigError
from nas.config.choices import COLUMNS, Task
from nas.config.load import load_arms, read_values
from nas.config.overrides import Overrides
from nas.config.places import path_keys, value_at, with_absolute_paths
from nas.config.schema import Config
from nas.config.values import FixedPath
from nas.run.api.given_data import data_of_path, keep_table, table_section
from nas.run.api.given_table import given_table
from nas.run.api.messages import python_errors
from nas.run.api.options import PathLike
from nas.run.proposal.columns import TableColumns
from nas.run.proposal.search_file import RETRIEVAL_FAMILY, examine, propose_encoders

ConfigLike = PathLike | Mapping[str, Any] | Config
_FILE = "search.yaml"
_NAME = "search"
_LOCATIONS = ("manifest", "folder")


@dataclass(frozen=True)
class SearchSource:
    """A search file, and where its run is.

    Args:
        path: The search file.
        directory: The run directory.
        is_temporary: Whether the file is deleted at the end, so that messages must not name it.
    """

    path: Path
    directory: Path
    is_temporary: bool


@contextmanager
def search_source(
    config: ConfigLike | None,
    data: Any,
    options: Mapping[str, Any],
    overrides: Overrides,
    run_dir: PathLike | None,
    note: Callable[[str], None],
) -> Iterator[SearchSource]:
    """Yield the search file for a configuration and data; data in memory are kept in the run directory.

    Args:
        config: The path of a search file, its content, or a loaded configuration; None for one that has only data.
        data: A data frame, a data set, or a path; None for the data of the configuration.
        options: The options of the caller, with names of columns and the place of images.
        overrides: The values that replace those of the file.
        run_dir: The run directory; None for `runs/NAME-SEED`.
        note: The receiver of messages.

    Raises:
        NasError: If the configuration or the data cannot be used.
        OSError: If the data cannot be kept.
    """
    if isinstance(config, str | os.PathLike) and (data is None or overrides.data is not None):
        yield SearchSource(Path(config), _directory(Path(config), overrides, run_dir), is_temporary=False)
        return
    if config is None and data is None:
        raise ArgumentError("data: missing; expected data, or a configuration with a section data")
    values = values_of(config)
    with tempfile.TemporaryDirectory(prefix="pmf-nas-") as folder:
        path = Path(os.path.realpath(folder)) / _FILE
        if data is not None and overrides.data is None:
            values = _with_data(values, data, options, lambda draft: _draft(path, draft, overrides, run_dir), note)
        _write(path, values)
        with python_errors(source=path):
            directory = _directory(path, overrides, run_dir)
        yield SearchSource(path, directory, is_temporary=True)


def names_data(config: ConfigLike | None) -> bool:
    """Return whether a configuration says where its data are, so that a path replaces that place.

    Args:
        config: The configuration.

    Raises:
        ConfigError: If its file cannot be read.
    """
    section = values_of(config).get("data")
    return isinstance(section, dict) and any(section.get(name) is not None for name in _LOCATIONS)


def values_of(config: ConfigLike | None) -> dict[str, Any]:
    """Return the content of a search file, with absolute paths.

    Args:
        config: The path of the file, its content, or a loaded configuration; None for an empty one.

    Raises:
        ConfigError: If the file cannot be read, or the content holds values that no search file has.
    """
    if config is None:
        return {"name": _NAME}
    if isinstance(config, Config):
        return config.as_dict()
    if isinstance(config, str | os.PathLike):
        return {"name": Path(config).stem, **read_values(Path(config))}
    if not isinstance(config, Mapping):
        raise ConfigError("config", [f"invalid value; expected a path, a dictionary or a Config, got {shown(config)}"])
    values: dict[str, Any] = with_absolute_paths(Config, _plain(config), Path.cwd())
    return {"name": _NAME, **values}


def _plain(value: Any) -> Any:
    """Return nested values as YAML has them."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.item() if isinstance(value, np.generic) else value


def _with_data(
    values: dict[str, Any],
    data: Any,
    options: Mapping[str, Any],
    draft: Callable[[dict[str, Any]], Path],
    note: Callable[[str], None],
) -> dict[str, Any]:
    """Return the content of a search file with the section `data` for given data, and encoders that fit them."""
    section = dict(values.get("data") or {}) if isinstance(values.get("data") or {}, dict) else {}
    section = {name: value for name, value in section.items() if name not in (*_LOCATIONS, "images")}
    given = _columns(section, options)
    named = {role: column for role, column in given.items() if column is not None}
    task = _task_of(section, given)
    images = options.get("images")
    place = None if images is None else Path(os.path.abspath(os.path.expanduser(images)))
    if isinstance(data, str | os.PathLike):
        path = Path(os.path.abspath(os.path.expanduser(data)))
        if path.is_dir():
            return {**values, "data": data_of_path(path, section, named)}
        found = examine(path, place, named, task)
    else:
        table = given_table(data)
        path, place = keep_table(
            table,
            images=place,
            columns=named,
            task=task,
            directory=lambda found: draft(_for_task(values, found) | {"data": {**table_section(found), **section}}),
            note=note,
        )
        found = examine(path, place, named, task)
    proposed = table_section(found.columns, found.data)
    columns = proposed["columns"] | {role: None for role, column in given.items() if column is None}
    if found.is_retrieval and task is None:
        note("Task: retrieval, since there is no column of labels; name it with label_column to classify")
    encoders = {}
    if "encoders" not in values:
        image, text = propose_encoders(found)
        encoders = {"encoders": {"image": image.name, "text": text.name}}
        note(f"Encoders: {image.name} ({image.comment}), {text.name} ({text.comment})")
    return _for_task(values, found.columns) | encoders | {"data": {**proposed, **section, "columns": columns}}


def _for_task(values: Mapping[str, Any], columns: TableColumns) -> dict[str, Any]:
    """Return the content of a search file, with a family that embeds pairs if it names none and has no labels."""
    family = {"family": RETRIEVAL_FAMILY} if columns.label is None and not values.keys() & {"family", "space"} else {}
    return {**values, **family}


def _task_of(section: Mapping[str, Any], given: Mapping[str, str | None]) -> Task | None:
    """Return the task that a configuration names, or that a caller means by no column of labels; None for neither."""
    named = section.get("task")
    if named in get_args(Task):
        return cast(Task, named)
    return "retrieval" if "label" in given and given["label"] is None else None


def _columns(section: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the columns that the configuration or the caller names; None for splits that shall not be used."""
    known = section.get("columns")
    given = {role: known[role] for role in COLUMNS if role in known} if isinstance(known, dict) else {}
    return given | {role: options[f"{role}_column"] for role in COLUMNS if f"{role}_column" in options}


def _draft(path: Path, values: dict[str, Any], overrides: Overrides, run_dir: PathLike | None) -> Path:
    """Check a search file before its data are kept, and return the run directory."""
    _write(path, {**values, "data": {**values["data"], "manifest": str(path)}})
    with python_errors(source=path):
        return _directory(path, overrides, run_dir)


def _directory(source: Path, overrides: Overrides, run_dir: PathLike | None) -> Path:
    config = overrides.apply(load_arms(source)[0].config)
    return Path("runs") / f"{config.name}-{config.seed}" if run_dir is None else Path(run_dir)


def _write(path: Path, values: Mapping[str, Any]) -> None:
    """Write a search file whose paths are relative to its folder, unless the caller gave them as absolute.

    A run records such a path relative to its own directory, so that both can be moved together.
    """
    written = _plain(values)
    for *sections, name in path_keys():
        holder = value_at(written, tuple(sections))
        if isinstance(holder, dict) and name in holder:
            holder[name] = _as_written(value_at(values, (*sections, name)), path.parent)
    try:
        path.write_text(yaml.safe_dump(written, sort_keys=False, allow_unicode=True), encoding="utf-8")
    except yaml.YAMLError as error:
        raise ConfigError("config", [f"{error}; expected only text, numbers, lists and dictionaries"]) from error


def _as_written(value: Any, folder: Path) -> Any:
    if isinstance(value, list):
        return [_as_written(entry, folder) for entry in value]
    if isinstance(value, FixedPath):
        return str(value.written)
    return os.path.relpath(value, folder) if isinstance(value, str) and os.path.isabs(value) else value
