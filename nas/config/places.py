"""Places of the data and encoders of a search: where they are, in contrast to what they contain.

A search is identified by its settings and by the content of its data and encoders. Places may change: a run records
them relative to its own directory where its search file gives them relative to its folder, so that a project can be
moved as a whole.
"""

import os
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from nas.common.errors import ConfigError
from nas.config.schema import Config
from nas.config.section import Section
from nas.config.values import CheckpointPath, FixedPath, LocalPath, is_path, path_problem


def path_marker(field: FieldInfo) -> LocalPath | None:
    """Return the marker of a key that holds a path; None for any other key.

    Args:
        field: The declaration of the key.
    """
    found = list(field.metadata)
    if get_origin(field.annotation) is Union:  # the key is optional
        for argument in get_args(field.annotation):
            found += get_args(argument)[1:] if get_origin(argument) is Annotated else []
    return next((entry for entry in found if isinstance(entry, LocalPath)), None)


def with_absolute_paths(section: type[Section], values: Any, directory: Path) -> Any:
    """Return the content of a section with every path resolved against a folder.

    Args:
        section: The class of the section.
        values: Its content, which may be invalid.
        directory: The folder.
    """
    if not isinstance(values, dict):
        return values
    resolved = dict(values)
    for key, value in values.items():
        field = section.field_of(key) if isinstance(key, str) else None
        if field is None:
            continue
        marker = path_marker(field)
        if marker is not None:
            resolved[key] = _absolute(marker, value, directory)
        elif isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            resolved[key] = with_absolute_paths(field.annotation, value, directory)
    return resolved


def _absolute(marker: LocalPath, value: Any, directory: Path) -> Any:
    """Resolve a path, or each path of a list."""
    if isinstance(value, list):
        return [entry if isinstance(entry, list) else _absolute(marker, entry, directory) for entry in value]
    if isinstance(value, str) and value and path_problem(value) is None:
        return marker.resolve(value, directory)
    return value


@cache
def path_keys() -> Mapping[tuple[str, ...], LocalPath]:
    """Return the keys of a search file that hold paths, each as the names of its sections and its own."""
    return MappingProxyType(dict(_path_keys(Config, ())))


def _path_keys(section: type[Section], prefix: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], LocalPath]]:
    for name, field in section.model_fields.items():
        key = (*prefix, str(field.validation_alias or name))
        marker = path_marker(field)
        if marker is not None:
            yield key, marker
        elif isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _path_keys(field.annotation, key)


def without_places(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without its paths: what two searches with the same data and encoders have in common.

    Args:
        values: The configuration as nested plain values; see `Config.as_dict`.
    """
    return _without(values, ())


def _without(values: Mapping[str, Any], prefix: tuple[str, ...]) -> dict[str, Any]:
    return {
        name: _without(value, (*prefix, name)) if isinstance(value, Mapping) else value
        for name, value in values.items()
        if (*prefix, name) not in path_keys()
    }


def fixed_places(values: Any) -> dict[str, str]:
    """Return the paths that a search file gives independently of its folder, as written, by dotted key.

    Args:
        values: The content of the file with resolved paths.
    """
    fixed = {".".join(key): text.written for key in path_keys() if isinstance(text := value_at(values, key), FixedPath)}
    if value_at(values, ("data", "images")) is None and "data.manifest" in fixed:  # then it is the manifest's folder
        fixed["data.images"] = os.path.dirname(fixed["data.manifest"])
    return fixed


def check_places(config: Config, source: str, *, among: Container[str] | None = None) -> None:
    """Check that the paths of a run lead somewhere, before anything is read.

    Args:
        config: The configuration of the run.
        source: The name of its file, for messages.
        among: The dotted keys of the paths to check, which the command line gives; None for all paths of a file.

    Raises:
        ConfigError: If one does not; names every one, and the option that gives its present place.
    """
    values, problems = config.as_dict(), []
    for key in path_keys():
        path, name = value_at(values, key), ".".join(key)
        if path is None or (among is not None and name not in among):
            continue
        if os.path.isabs(path) and not os.path.exists(path):
            what, hint = (name, f"; give it with {_OPTIONS[key]}") if among is None else (_OPTIONS[key], "")
            problems.append(f"{what}: not found; expected an existing path, got {path}{hint}")
    if problems:
        raise ConfigError(source, problems)


_OPTIONS: Mapping[tuple[str, ...], str] = {
    ("data", "manifest"): "--data",
    ("data", "folder"): "--data",
    ("data", "images"): "--images",
    ("encoders", "image"): "--image-encoder",
    ("encoders", "text"): "--text-encoder",
}
"""The options of the command line that give a place."""


def value_at(values: Any, key: tuple[str, ...]) -> Any:
    """Return the value of a key in nested mappings; None if it has none.

    Args:
        values: The mappings.
        key: The names of the sections and of the key.
    """
    for name in key:
        values = values.get(name) if isinstance(values, Mapping) else None
    return values


def _with_value(values: Mapping[str, Any], key: tuple[str, ...], value: str) -> dict[str, Any]:
    return {**values, key[0]: value if len(key) == 1 else _with_value(values[key[0]], key[1:], value)}


def portable(values: Mapping[str, Any], fixed: Mapping[str, str], directory: Path) -> dict[str, Any]:
    """Return a configuration with its paths as a run records them: as written, or relative to the run directory.

    Args:
        values: The configuration with absolute paths.
        fixed: The paths that do not depend on the folder of the search file; see `fixed_places`.
        directory: The run directory.
    """
    written = dict(values)
    for key in path_keys():
        path = value_at(written, key)
        if path is None or not os.path.isabs(path):  # the name of a package's folder or of a model on the hub
            continue
        text = fixed.get(".".join(key))
        if text is None:
            text = _relative(path, directory)
            text = text if text.startswith(os.pardir) else os.path.join(os.curdir, text)  # not the name of a model
        written = _with_value(written, key, text)
    return written


def _relative(path: str, directory: Path) -> str:
    """Return the shorter of the relative paths as written and with links resolved: the run may be reached by a link."""
    folder, name = os.path.split(path)
    texts = (
        os.path.relpath(path, os.path.abspath(directory)),
        os.path.relpath(os.path.join(os.path.realpath(folder), name), os.path.realpath(directory)),
    )
    return min(texts, key=lambda text: text.count(os.sep))


@dataclass(frozen=True)
class RecordedPlaces:
    """The paths that a run records, found again after the run, or the run with its data and encoders, was moved.

    Args:
        directory: The present run directory.
        recorded: The run directory when the paths were recorded.
    """

    directory: Path
    recorded: Path

    def resolve(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """Return the configuration with absolute paths, and those that do not depend on the run directory, by key.

        A relative path is looked for from the present run directory, then from the recorded one; an absolute path
        where it says, then at the same place as seen from the run directory. If none exists, the first is returned.

        Args:
            values: The configuration as `portable` returned it, possibly edited.
        """
        resolved, fixed = dict(values), {}
        for key, marker in path_keys().items():
            text = value_at(resolved, key)
            if not isinstance(text, str) or not text or (isinstance(marker, CheckpointPath) and not is_path(text)):
                continue
            expanded = os.path.normpath(os.path.expanduser(text))
            is_fixed = os.path.isabs(expanded)
            candidates = self._candidates(expanded)
            found = next((path for path in candidates if os.path.exists(path)), candidates[0])
            if is_fixed and found == candidates[0]:
                fixed[".".join(key)] = text
            resolved = _with_value(resolved, key, found)
        return resolved, fixed

    def _candidates(self, path: str) -> list[str]:
        recorded = os.path.abspath(self.recorded)
        present = [os.path.abspath(self.directory), os.path.realpath(self.directory)]
        if os.path.isabs(path):
            place = os.path.relpath(path, recorded)
            return [path, *(os.path.normpath(os.path.join(folder, place)) for folder in present)]
        return [os.path.normpath(os.path.join(folder, path)) for folder in (*present, recorded)]
