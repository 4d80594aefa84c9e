"""Read search files: YAML, with `extends`, checked as a whole."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from nas.common.errors import ConfigError
from nas.config.data_schema import DataConfig
from nas.config.places import fixed_places, path_marker
from nas.config.reader_registry import LABEL_KEYS
from nas.config.schema import Config
from nas.config.section import FromFile, Section, show

EXTENDS = "extends"

_SELECTED_BY: Mapping[tuple[str, ...], tuple[tuple[str, ...], ...]] = {
    ("family",): (("space",), ("search", "initial_architectures")),
    ("data", "reader"): tuple(("data", key) for key in ("manifest", "images", "folder", "texts", *LABEL_KEYS)),
}
"""Keys that are not inherited by a file that sets the first key to a value other than the inherited one."""

AnySection = TypeVar("AnySection", bound=Section)


def load_config(path: Path) -> Config:
    """Read and check a search file.

    Relative paths in a file are relative to its folder; in the configuration they are absolute.

    Raises:
        ConfigError: If the file or a file that it extends cannot be read, or anything in it is wrong; lists every
            problem.
    """
    values, parents = _read_extended(path, ())
    source = f"{path} (extends {', '.join(map(str, parents))})" if parents else str(path)
    return _validate(Config, values, source)


def load_fixed_places(path: Path) -> dict[str, str]:
    """Return the paths that a search file, or one that it extends, gives as absolute; see `fixed_places`.

    Args:
        path: The file, which `load_config` accepts.
    """
    return fixed_places(_read_extended(path, ())[0])


def parse_config(values: Any, *, source: str, base_directory: Path) -> Config:
    """Check the content of a search file without `extends`; see `load_config`.

    Args:
        values: The content.
        source: The name of the file in messages.
        base_directory: The folder that relative paths start from.

    Raises:
        ConfigError: Lists every problem.
    """
    return _validate(Config, _with_absolute_paths(Config, values, base_directory), source)


def parse_data(values: Any, *, source: str, base_directory: Path) -> DataConfig:
    """Check the content of the section `data`; see `parse_config`.

    Raises:
        ConfigError: Lists every problem.
    """
    return _validate(DataConfig, _with_absolute_paths(DataConfig, values, base_directory), source, prefix=("data",))


def config_error(source: str, error: ValidationError, prefix: tuple[str, ...] = ()) -> ConfigError:
    """Return the error of this project for pydantic's.

    Args:
        source: The file, or where the values come from.
        error: The error of a `Section`.
        prefix: The keys from the whole configuration to that section.
    """
    lines = [(".".join(map(str, (*prefix, *line["loc"]))) or "the file", line["msg"]) for line in error.errors()]
    return ConfigError(source, [f"{path}: {text}" for path, text in lines])


def _validate(section: type[AnySection], values: Any, source: str, prefix: tuple[str, ...] = ()) -> AnySection:
    try:
        return section.model_validate(values, context=FromFile(), by_alias=True, by_name=False)
    except ValidationError as error:
        raise config_error(source, error, prefix) from None


class _Loader(yaml.SafeLoader):
    """Rejects duplicate keys; YAML's own loader silently uses the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for position, key in enumerate(keys):
            if key.value in (earlier.value for earlier in keys[:position]):
                problem = f"duplicate key {key.value!r}"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
        return super().construct_mapping(node, deep)


def _read_extended(path: Path, children: tuple[Path, ...]) -> tuple[Any, list[Path]]:
    """Read a file and those that it extends.

    Args:
        path: The file.
        children: The files that extend it, outermost first.

    Returns:
        The merged content, and the extended files from near to far.

    Raises:
        ConfigError: If a file cannot be read, or the files extend each other in a circle.
    """
    values = _with_absolute_paths(Config, _read(path, children), path.resolve().parent)
    if not isinstance(values, dict) or EXTENDS not in values:
        return values, []
    name = values.pop(EXTENDS)
    if not isinstance(name, str) or not name:
        problem = f"{EXTENDS}: invalid value; expected the path of another search file, got {show(name)}"
        raise ConfigError(str(path), [problem])
    parent = path.parent / name
    chain = (*children, path)
    if parent.resolve() in [known.resolve() for known in chain]:
        circle = " → ".join(map(str, (*chain, parent)))
        raise ConfigError(
            str(path), [f"{EXTENDS}: circular; expected a file that does not extend this one, got {circle}"]
        )
    inherited, ancestors = _read_extended(parent, chain)
    if not isinstance(inherited, dict):
        raise ConfigError(
            str(path), [f"{EXTENDS}: {parent}: expected a mapping of keys to values, got {show(inherited)}"]
        )
    return _merged(_inheritable(inherited, values), values), [parent, *ancestors]


def _read(path: Path, children: tuple[Path, ...]) -> Any:
    def error(problem: str) -> ConfigError:
        if not children:
            return ConfigError(str(path), [problem])
        return ConfigError(str(children[-1]), [f"{EXTENDS}: {path} {problem}"])

    try:
        with path.open(encoding="utf-8") as file:
            return yaml.load(file, Loader=_Loader)
    except OSError as reason:
        raise error(f"cannot be read: {reason.strerror}") from reason
    except (yaml.YAMLError, UnicodeDecodeError) as reason:
        raise error(f"cannot be parsed as YAML: {' '.join(str(reason).split())}") from reason


def _inheritable(inherited: dict[Any, Any], values: dict[Any, Any]) -> dict[Any, Any]:
    """Return the inherited content without the keys that belong to another family or reader than the file's."""
    for selector, selected in _SELECTED_BY.items():
        default = Config.model_fields["family"].default if selector == ("family",) else "manifest"
        chosen = _at(values, selector)
        if chosen is not None and chosen != (_at(inherited, selector) or default):
            for path in selected:
                inherited = _without(inherited, path)
    return inherited


def _at(values: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        values = values.get(key) if isinstance(values, dict) else None
    return values


def _without(values: Any, path: tuple[str, ...]) -> Any:
    if not isinstance(values, dict) or path[0] not in values:
        return values
    if len(path) == 1:
        return {key: value for key, value in values.items() if key != path[0]}
    return values | {path[0]: _without(values[path[0]], path[1:])}


def _merged(inherited: dict[Any, Any], values: dict[Any, Any]) -> dict[Any, Any]:
    """Merge mappings key by key; any other value replaces the inherited one."""
    merged = dict(inherited)
    for key, value in values.items():
        known = inherited.get(key)
        merged[key] = _merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return merged


def _with_absolute_paths(section: type[Section], values: Any, directory: Path) -> Any:
    """Resolve every path in the content of a section against a folder."""
    if not isinstance(values, dict):
        return values
    resolved = dict(values)
    for key, value in values.items():
        field = section.field_of(key) if isinstance(key, str) else None
        if field is None:
            continue
        marker = path_marker(field)
        if marker is not None and isinstance(value, str) and value:
            resolved[key] = marker.resolve(value, directory)
        elif isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            resolved[key] = _with_absolute_paths(field.annotation, value, directory)
    return resolved
