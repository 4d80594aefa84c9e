"""Types of the values in a search file: numbers, texts, paths, bytes and seconds."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import MinLen
from pydantic import (
    AllowInfNan,
    BeforeValidator,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    Strict,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, core_schema

from nas.common.units import BYTES_FORM, TIME_FORM, parse_bytes, parse_seconds
from nas.config.section import Expected, FromFile, Rejected


class OneOf(Expected):
    """Restricts a text to names that are looked up when it is validated, such as those of a registry.

    Args:
        names: Returns the allowed names.
    """

    def __init__(self, names: Callable[[], Sequence[str]]) -> None:
        super().__init__(lambda: f"one of {', '.join(names())}")
        self._names = names

    @property
    def names(self) -> tuple[str, ...]:
        """The allowed names."""
        return tuple(self._names())

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "enum": list(self.names)}

    def _check(self, value: str) -> str:
        if value not in self.names:
            raise Rejected()
        return value


class FixedPath(str):
    """An absolute path that does not depend on the folder of the search file.

    Args:
        path: The path.
        written: The text in the file, which may start with `~`.
    """

    written: str

    def __new__(cls, path: str, written: str) -> "FixedPath":
        fixed = super().__new__(cls, path)
        fixed.written = written
        return fixed


@dataclass(frozen=True)
class LocalPath:
    """Marks a key that holds a path; `nas.config.load` resolves it against the folder of the search file."""

    def resolve(self, name: str, directory: Path) -> str:
        """Return the absolute path."""
        # Not Path.expanduser, which raises for a user that does not exist; such a path is then reported as missing.
        expanded = os.path.expanduser(name)
        path = os.path.normpath(directory / expanded)
        return FixedPath(path, name) if os.path.isabs(expanded) else path


@dataclass(frozen=True)
class CheckpointPath(LocalPath):
    """Marks a key that holds a local path, a package's folder or a hub name."""

    def resolve(self, name: str, directory: Path) -> str:
        """Return the absolute path of a local folder, and any other name unchanged."""
        local = super().resolve(name, directory)
        return local if is_path(name) or Path(local).is_dir() else name


def is_path(name: str) -> bool:
    """Return whether the name of a checkpoint can only be a local path."""
    return name.startswith((".", "~")) or os.path.isabs(name)


def _as_number(value: Any) -> Any:
    if isinstance(value, bool):
        raise Rejected()
    if isinstance(value, str):  # YAML 1.1 reads 1e-4 as text
        try:
            return float(value)
        except ValueError:
            raise Rejected() from None
    return value


def _as_bytes(value: Any, info: ValidationInfo) -> Any:
    return _with_unit(value, info, parse_bytes, int)


def _as_seconds(value: Any, info: ValidationInfo) -> Any:
    return _with_unit(value, info, parse_seconds, (int, float))


def _with_unit(value: Any, info: ValidationInfo, parse: Callable[[str], float], plain: Any) -> Any:
    if isinstance(value, plain) and not isinstance(value, bool) and not isinstance(info.context, FromFile):
        number = value
    else:
        try:
            number = parse(str(value))
        except ValueError:
            raise Rejected() from None
    if number <= 0:
        raise Rejected("more than 0")
    return number


def ascending(value: Any, is_allowed: Callable[[Any], bool]) -> tuple[Any, ...]:
    """Check a list of ascending, distinct values.

    Raises:
        Rejected: If it is something else.
    """
    if not isinstance(value, list | tuple) or not value or not all(is_allowed(entry) for entry in value):
        raise Rejected()
    if list(value) != sorted(set(value)):
        raise Rejected()
    return tuple(value)


def _ascending_rates(value: Any) -> tuple[float, ...]:
    numbers = [_as_number(entry) for entry in value] if isinstance(value, list | tuple) else value
    return ascending(numbers, lambda entry: isinstance(entry, int | float) and 0 < entry < float("inf"))


Integer = Annotated[int, Strict()]
Number = Annotated[float, BeforeValidator(_as_number), AllowInfNan(False)]
Flag = Annotated[bool, Strict()]
Text = Annotated[str, Strict(), MinLen(1)]
Rates = Annotated[
    tuple[float, ...],
    BeforeValidator(_ascending_rates),
    WithJsonSchema({"type": "array", "items": {"type": ["number", "string"]}, "minItems": 1}),
    Expected("ascending, distinct numbers above 0, for instance [1e-4, 1e-3]"),
]
Bytes = Annotated[
    int,
    BeforeValidator(_as_bytes),
    PlainSerializer(lambda count: f"{count}B"),
    WithJsonSchema({"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*([kKmMgGtT][iI]?)?[bB]\s*$"}),
    Expected(BYTES_FORM),
]
Seconds = Annotated[
    float,
    BeforeValidator(_as_seconds),
    PlainSerializer(lambda seconds: f"{seconds:f}s"),
    WithJsonSchema({"type": "string", "pattern": r"^\s*(\d+(\.\d+)?[smhd])+\s*$"}),
    Expected(TIME_FORM),
]
