"""Read search files: YAML, with `extends`, checked as a whole."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from nas.common.boundary import MEBIBYTE
from nas.common.errors import ConfigError
from nas.common.yaml_files import read_yaml
from nas.config.arms import ArmValues, expand
from nas.config.automatic import fill
from nas.config.data_schema import DataConfig
from nas.config.places import fixed_places, with_absolute_paths
from nas.config.reader_registry import LABEL_KEYS
from nas.config.schema import Config
from nas.config.section import FromFile, Section, show, show_key
from nas.config.values import path_problem

EXTENDS = "extends"

MAX_FILE = MEBIBYTE // 4
MAX_EXTENDED = 20

_SELECTED_BY: Mapping[tuple[str, ...], tuple[tuple[str, ...], ...]] = {
    ("family",): (("space",), ("search", "initial_architectures")),
    ("data", "reader"): tuple(("data", key) for key in ("manifest", "images", "folder", "texts", *LABEL_KEYS)),
}
"""Keys that are not inherited by a file that sets the first key to a value other than the inherited one."""

AnySection = TypeVar("AnySection", bound=Section)

_NO_PLACEHOLDERS = FromFile()


@dataclass(frozen=True)
class _Layer:
    """The content of one of the files that extend each other.

    Args:
        path: The file.
        values: Its content, without keys that do not apply.
    """

    path: Path
    values: dict[str, Any]

    def sets(self, keys: tuple[str, ...]) -> bool:
        """Return whether the file has a key, given with the keys of the mappings around it."""
        values: Any = self.values
        for key in keys:
            if not isinstance(values, dict) or key not in values:
                return False
            values = values[key]
        return True

    def without(self, dropped: Sequence[tuple[str, ...]]) -> "_Layer":
        """Return the content without some keys."""
        values = self.values
        for path in dropped:
            values = _without(values, path)
        return _Layer(self.path, values)


@dataclass(frozen=True)
class Arm:
    """One arm of a search: the search with one image encoder, one text encoder and one family.

    Args:
        name: The name of the arm, which its folder has.
        config: The configuration of its search, with placeholders; see `Config.automatic`.
        fixed: Its paths that are given as absolute; see `fixed_places`.
    """

    name: str
    config: Config
    fixed: Mapping[str, str]


def load_config(path: str | os.PathLike[str]) -> Config:
    """Read and check a search file with one arm; see `load_arms`.

    Relative paths in a file are relative to its folder; in the configuration they are absolute. Keys that the file
    leaves to the program have placeholders where they follow from data, encoders or machine; see `Config.automatic`.

    Raises:
        ConfigError: If the file or a file that it extends cannot be read, anything in it is wrong, or it lists several
            encoders or families; lists every problem.
    """
    arms = load_arms(Path(path))
    if len(arms) > 1:
        problem = (
            f"encoders, family: {len(arms)} combinations; expected one image encoder, one text encoder and one family: "
            "only `search` and `space` take lists"
        )
        raise ConfigError(str(path), [problem])
    return arms[0].config


def load_arms(path: Path) -> list[Arm]:
    """Read and check a search file, which may list several encoders and families.

    All arms together have the disk space of `features.disk`; each has an equal part.

    Returns:
        The arms, in the order of the lists; a single one for a file without lists.

    Raises:
        ConfigError: If the file or a file that it extends cannot be read, or anything in it is wrong; lists every
            problem.
    """
    layers = _read_extended(path, ())

    def origin(keys: tuple[str, ...]) -> Path | None:
        setting = next((layer for layer in layers if layer.sets(keys)), None)
        return None if setting is None or setting is layers[0] else setting.path

    values = {"name": path.stem, **_merged(layers)}
    try:
        expanded = expand(values)
    except ValueError as error:
        raise ConfigError(str(path), list(map(str, error.args))) from None
    return _validate_arms(expanded, str(path), origin)


def _validate_arms(
    expanded: Sequence[ArmValues], source: str, origin: Callable[[tuple[str, ...]], Path | None]
) -> list[Arm]:
    arms: list[Arm] = []
    problems: dict[str, None] = {}
    for arm in expanded:
        values = arm.values
        try:
            config = _validate_search(values, source, origin)
            if len(expanded) > 1:
                disk = max(config.features.disk_bytes // len(expanded), 1)
                values = {**values, "features": {**values.get("features", {}), "disk": f"{disk}B"}}
                config = _validate_search(values, source, origin)
        except ConfigError as error:
            problems |= dict.fromkeys(error.problems)  # most are the same for all arms
            continue
        arms.append(Arm(arm.name, config, fixed_places(values)))
    if problems:
        raise ConfigError(source, list(problems))
    return arms


def load_fixed_places(path: Path) -> dict[str, str]:
    """Return the paths that a search file with one arm, or one that it extends, gives as absolute; see `fixed_places`.

    Args:
        path: The file, which `load_config` accepts.
    """
    return fixed_places(expand(read_values(path))[0].values)


def read_values(path: Path) -> dict[str, Any]:
    """Return the content of a search file, merged with the files that it extends, with absolute paths, unchecked.

    Raises:
        ConfigError: If a file cannot be read.
    """
    return _merged(_read_extended(path, ()))


def parse_config(values: Any, *, source: str, base_directory: Path) -> Config:
    """Check the content of a search file without `extends`; see `load_config`.

    Args:
        values: The content.
        source: The name of the file in messages.
        base_directory: The folder that relative paths start from.

    Raises:
        ConfigError: Lists every problem.
    """
    return _validate_search(with_absolute_paths(Config, values, base_directory), source)


def parse_data(values: Any, *, source: str, base_directory: Path) -> DataConfig:
    """Check the content of the section `data`; see `parse_config`.

    Raises:
        ConfigError: Lists every problem.
    """
    return _validate(DataConfig, with_absolute_paths(DataConfig, values, base_directory), source, prefix=("data",))


def config_error(
    source: str,
    error: ValidationError,
    prefix: tuple[str, ...] = (),
    origin: Callable[[tuple[str, ...]], Path | None] = lambda keys: None,
) -> ConfigError:
    """Return the error of this project for pydantic's.

    Args:
        source: The file, or where the values come from.
        error: The error of a `Section`.
        prefix: The keys from the whole configuration to that section.
        origin: Function that returns the file that sets a key, if it is another one than `source`.
    """
    problems = []
    for line in error.errors(include_url=False, include_context=False, include_input=False):
        keys = tuple(map(str, (*prefix, *line["loc"])))
        place = origin(keys)
        suffix = "" if place is None else f"; set in {place}"
        problems.append(f"{'.'.join(map(show_key, keys)) or 'the file'}: {line['msg']}{suffix}")
    return ConfigError(source, problems)


def _validate_search(
    values: Any, source: str, origin: Callable[[tuple[str, ...]], Path | None] = lambda keys: None
) -> Config:
    filled, automatic = fill(values)
    context = FromFile(frozenset(automatic))
    return _validate(Config, filled, source, origin=origin, context=context).deferring(automatic)


def _validate(
    section: type[AnySection],
    values: Any,
    source: str,
    prefix: tuple[str, ...] = (),
    origin: Callable[[tuple[str, ...]], Path | None] = lambda keys: None,
    context: FromFile = _NO_PLACEHOLDERS,
) -> AnySection:
    try:
        return section.model_validate(values, context=context, by_alias=True, by_name=False)
    except ValidationError as error:
        raise config_error(source, error, prefix, origin) from None


def _read_extended(path: Path, children: tuple[Path, ...]) -> list[_Layer]:
    """Read a file and those that it extends.

    Args:
        path: The file.
        children: The files that extend it, outermost first.

    Returns:
        The content of each file, from the extending to the extended, without keys that do not apply to the first.

    Raises:
        ConfigError: If a file cannot be read, or the files extend each other in a circle.
    """
    values = _read(path, children)
    if not isinstance(values, dict):
        problem = f"holds no mapping; expected keys with values, got {show(values)}"
        raise _file_error(path, children, problem)
    values = with_absolute_paths(Config, values, Path(os.path.realpath(path)).parent)
    if EXTENDS not in values:
        return [_Layer(path, values)]
    name = values.pop(EXTENDS)
    chain = (*children, path)
    if not isinstance(name, str) or not name or path_problem(name) is not None:
        problem = "invalid value" if not isinstance(name, str) else path_problem(name) or "invalid value"
        expected = f"{EXTENDS}: {problem}; expected the path of another search file, got {show(name)}"
        raise ConfigError(str(path), [expected])
    parent = path.parent / name
    if os.path.realpath(parent) in map(os.path.realpath, chain):
        circle = " → ".join(map(str, (*chain, parent)))
        raise ConfigError(
            str(path), [f"{EXTENDS}: circular; expected a file that does not extend this one, got {circle}"]
        )
    if len(chain) > MAX_EXTENDED:
        problem = f"{EXTENDS}: too many files; expected at most {MAX_EXTENDED} that extend each other, got {name!r}"
        raise ConfigError(str(path), [problem])
    inherited = _read_extended(parent, chain)
    dropped = _not_inherited(_merged(inherited), values)
    return [_Layer(path, values), *(layer.without(dropped) for layer in inherited)]


def _read(path: Path, children: tuple[Path, ...]) -> Any:
    def error(message: str) -> ConfigError:
        return _file_error(path, children, message.removeprefix(f"{path}: "))

    return read_yaml(path, expected="a search file", error=error, max_bytes=MAX_FILE)


def _file_error(path: Path, children: tuple[Path, ...], problem: str) -> ConfigError:
    """Return the error for a file as a whole, of the innermost file that extends it if there is one."""
    if not children:
        return ConfigError(str(path), [problem])
    return ConfigError(str(children[-1]), [f"{EXTENDS}: {path}: {problem}"])


def _not_inherited(inherited: dict[str, Any], values: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the keys of the inherited content that belong to another family or reader than the file's."""
    found: list[tuple[str, ...]] = []
    for selector, selected in _SELECTED_BY.items():
        default = Config.model_fields["family"].default if selector == ("family",) else "manifest"
        chosen = _at(values, selector)
        if chosen is not None and chosen != (_at(inherited, selector) or default):
            found += selected
    return found


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


def _merged(layers: Sequence[_Layer]) -> dict[str, Any]:
    """Merge mappings key by key; any other value replaces the inherited one."""
    merged: dict[str, Any] = {}
    for layer in reversed(layers):
        merged = _updated(merged, layer.values)
    return merged


def _updated(inherited: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    updated = dict(inherited)
    for key, value in values.items():
        known = inherited.get(key)
        updated[key] = _updated(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return updated
