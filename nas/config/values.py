"""Types of the values in a search file: numbers, texts, paths, bytes and seconds."""

import math
import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import MinLen
from pydantic import (
    AfterValidator,
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

from nas.common.units import (
    BYTES_FORM,
    MAX_BYTES,
    MAX_SECONDS,
    TIME_FORM,
    exact_seconds,
    parse_bytes,
    parse_seconds,
)
from nas.config.section import Expected, FromFile, Rejected

MAX_BATCH = 65_536
"""The upper bound of samples per step: no device holds more."""
MAX_CHOICES = 1_000
"""The number of values that a list of choices may have."""
MAX_RATE = 1_000
"""The upper bound of learning rates and decay."""

_MAX_PATH, _MAX_PATH_PART = 4096, 255
_MAX_TEXT = 1_000
_MAX_NAME = 200  # a file name has 255 bytes, and seeds and temporary names are added
_NO_NAME = frozenset('/\\:*?"<>|')
_RESERVED_NAMES = frozenset(
    ["CON", "PRN", "AUX", "NUL", *(f"{port}{number}" for port in ("COM", "LPT") for number in range(1, 10))]
)
_NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")


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


def path_problem(text: str) -> str | None:
    """Return why a text can be no path on any file system, or is none that anybody meant; None if it can be one."""
    if "\0" in text:
        return "has a NUL character"
    if text.isspace():
        return "is blank"
    # A path that is resolved already may lie in a folder of any name.
    if not os.path.isabs(text) and any(unicodedata.category(character) == "Cc" for character in text):
        return "has a control character"
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        return "is not valid Unicode"
    if len(encoded) > _MAX_PATH or max(map(len, encoded.split(b"/"))) > _MAX_PATH_PART:
        return f"is longer than {_MAX_PATH:,} bytes, or than {_MAX_PATH_PART} between two slashes"
    return None


def _check_path(value: str) -> str:
    problem = path_problem(value)
    if problem is not None:
        raise Rejected(problem=problem)
    return value


def _check_text(value: str) -> str:
    if "\0" in value or len(value) > _MAX_TEXT:
        raise Rejected(f"text of at most {_MAX_TEXT:,} characters, none of them NUL")
    return value


def _check_name(value: str) -> str:
    is_allowed = value.isprintable() and not _NO_NAME.intersection(value) and len(value.encode()) <= _MAX_NAME
    stem = value.partition(".")[0].rstrip().upper()
    if not is_allowed or value[0] in ".- " or value[-1] in ". " or stem in _RESERVED_NAMES:
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
        return local if is_path(name) or os.path.isdir(local) else name


def is_path(name: str) -> bool:
    """Return whether the name of a checkpoint can only be a local path."""
    return name.startswith((".", "~")) or os.path.isabs(name)


def as_number(value: Any) -> Any:
    """Return a number, also one that YAML reads as text.

    Raises:
        Rejected: If the value is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise Rejected()
    if isinstance(value, str) and not _NUMBER.fullmatch(value):  # YAML 1.1 reads 1e-4 as text
        raise Rejected()
    try:
        number = float(value)
    except OverflowError:
        raise Rejected() from None
    if not math.isfinite(number):
        raise Rejected()
    return number if isinstance(value, str) else value


def _as_bytes(value: Any, info: ValidationInfo) -> Any:
    return _with_unit(value, info, parse_bytes, int, MAX_BYTES)


def _as_seconds(value: Any, info: ValidationInfo) -> Any:
    return _with_unit(value, info, parse_seconds, (int, float), MAX_SECONDS)


def _with_unit(value: Any, info: ValidationInfo, parse: Callable[[str], float], plain: Any, most: float) -> Any:
    if isinstance(value, plain) and not isinstance(value, bool) and not isinstance(info.context, FromFile):
        number = value
    else:
        try:
            number = parse(value if isinstance(value, str) else "")
        except ValueError:
            raise Rejected() from None
    if not number > 0:
        raise Rejected("more than 0")
    if number > most:
        raise Rejected()
    return number


def ascending(value: Any, is_allowed: Callable[[Any], bool]) -> tuple[Any, ...]:
    """Check a list of ascending, distinct values, at most `MAX_CHOICES`.

    Raises:
        Rejected: If it is something else.
    """
    if not isinstance(value, list | tuple) or not 0 < len(value) <= MAX_CHOICES or not all(map(is_allowed, value)):
        raise Rejected()
    if list(value) != sorted(set(value)):
        raise Rejected()
    return tuple(value)


def _ascending_rates(value: Any) -> tuple[float, ...]:
    numbers = [as_number(entry) for entry in value[: MAX_CHOICES + 1]] if isinstance(value, list | tuple) else value
    return ascending(numbers, lambda entry: isinstance(entry, int | float) and 0 < entry <= MAX_RATE)


Integer = Annotated[int, Strict()]
Number = Annotated[float, BeforeValidator(as_number), AllowInfNan(False)]
Flag = Annotated[bool, Strict()]
Text = Annotated[str, Strict(), MinLen(1), AfterValidator(_check_text)]
PathText = Annotated[str, Strict(), MinLen(1), AfterValidator(_check_path)]
Name = Annotated[
    str,
    Strict(),
    MinLen(1),
    AfterValidator(_check_name),
    Expected(
        f"a name of at most {_MAX_NAME} bytes that a folder can have: printable, without any of "
        f"{' '.join(sorted(_NO_NAME))}, with no dot, dash or blank at the start and no dot or blank at the end"
    ),
]
Rates = Annotated[
    tuple[float, ...],
    BeforeValidator(_ascending_rates),
    WithJsonSchema({"type": "array", "items": {"type": ["number", "string"]}, "minItems": 1}),
    Expected(
        f"at most {MAX_CHOICES:,} ascending, distinct numbers above 0 and at most {MAX_RATE}, for instance [1e-4, 1e-3]"
    ),
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
    PlainSerializer(exact_seconds),
    WithJsonSchema({"type": "string", "pattern": r"^\s*(\d+(\.\d+)?[smhd])+\s*$"}),
    Expected(TIME_FORM),
]
