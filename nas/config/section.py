"""Sections of the search file, and the messages about their invalid values.

A problem reads `<problem>; expected <X>, got <Y>`. What is expected is derived from the declaration of the key, so that
messages, documentation and JSON schema agree.
"""

import difflib
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import (
    BaseModel,
    ConfigDict,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError

from nas.common.boundary import shown

AUTO = "auto"
"""The value of a key whose default follows from other keys, the data, the encoders or the machine."""

_EXPLAINED = "explained"
_INPUT: Any = object()
_MAX_HINTS = 20
_WORD = re.compile(r"[\w.-]{1,60}")
_PLAIN = {bool: "true or false", str: "text", int: "a whole number", float: "a number"}


class Rejected(ValueError):
    """A value that a key does not allow; raised by validators.

    Args:
        expected: The allowed values; by default those that the declaration of the key allows.
        problem: The problem with the value.
        path: The keys from the validated key down to the invalid one.
        got: The value to show; by default the input of the validated key. Not shown if `problem` is "missing".
    """

    def __init__(
        self,
        expected: str | None = None,
        *,
        problem: str = "invalid value",
        path: Sequence[str] = (),
        got: Any = _INPUT,
    ) -> None:
        super().__init__(expected or problem)
        self.expected, self.problem, self.path, self.got = expected, problem, tuple(path), got


class Expected:
    """Describes the values that a key allows, where its type does not.

    Args:
        text: A noun phrase, or a function that returns it.
    """

    def __init__(self, text: str | Callable[[], str]) -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text if isinstance(self._text, str) else self._text()


class Automatic:
    """Marks a key that a search file may leave out or set to `auto`.

    `nas.config.automatic` replaces it before the values are validated, so that a section always has a value.

    Args:
        rule: What the value then is, for the documentation.
    """

    def __init__(self, rule: str = "") -> None:
        self.rule = rule

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"const": AUTO}, handler(schema)]}


class Several:
    """Marks a key of the search file that may be a list; each entry is then an arm, see `nas.config.arms`."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        one = handler(schema)
        return {"anyOf": [one, {"type": "array", "items": one, "minItems": 1, "uniqueItems": True}]}


@dataclass(frozen=True)
class FromFile:
    """Validation context of values from a file, where bytes and seconds need a unit.

    Args:
        automatic: The dotted keys whose values stand in for those that follow from data, encoders and machine.
    """

    automatic: frozenset[str] = frozenset()

    def defers(self, prefix: str) -> bool:
        """Return whether a key, or one of a section, has no final value yet."""
        return any(key == prefix or key.startswith(f"{prefix}.") for key in self.automatic)


class Section(BaseModel):
    """One mapping of the search file: immutable, without unknown keys, with problems in the form of this project."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        validate_by_alias=True,
        validate_by_name=True,
        arbitrary_types_allowed=True,
        ser_json_inf_nan="constants",
    )

    def replace(self, **changes: Any) -> Self:
        """Return a validated copy with some attributes changed.

        Raises:
            pydantic.ValidationError: If the changed section is not valid.
        """
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self).model_validate(values | changes, by_alias=False, by_name=True)

    @classmethod
    def field_of(cls, key: str) -> FieldInfo | None:
        """Return the declaration of a key of the file, or None if the section has no such key."""
        return next(
            (field for name, field in cls.model_fields.items() if key == (field.validation_alias or name)), None
        )

    @classmethod
    def key_names(cls) -> tuple[str, ...]:
        """Return the keys of the file, in the order of their declarations."""
        return tuple(str(field.validation_alias or name) for name, field in cls.model_fields.items())

    @model_validator(mode="wrap")
    @classmethod
    def _explain(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(values)
        except ValidationError as error:
            found = error.errors(include_url=False)
            lines = [_explained(cls, line, has_hint=index < _MAX_HINTS) for index, line in enumerate(found)]
            raise ValidationError.from_exception_data(cls.__name__, lines) from None


def rejections(found: Sequence[Rejected]) -> ValidationError:
    """Combine several problems into one error, for validators that can find more than one."""
    return ValidationError.from_exception_data(
        "rejected", [_line(entry.path, _text(entry, "", None), None) for entry in found]
    )


def _explained(section: type[Section], line: Mapping[str, Any], *, has_hint: bool) -> InitErrorDetails:
    """Return a problem of pydantic's in the form of this project; problems of nested sections have it already."""
    location, value, kind = line["loc"], line["input"], line["type"]
    if kind == _EXPLAINED:
        return _line(location, line["msg"], value)
    if not location:
        return _line((), f"invalid value; expected a mapping, got {show(value)}", value)
    key = str(location[0])
    field = section.field_of(key) or section.model_fields.get(key)
    if field is None or kind in ("extra_forbidden", "invalid_key"):
        return _line(location, _unknown(key, section.key_names(), has_hint=has_hint), value)
    error = line.get("ctx", {}).get("error")
    if isinstance(error, Rejected):
        return _line((key, *error.path), _text(error, expected(field), value), value)
    problem = Rejected(problem="missing") if kind == "missing" else Rejected()
    return _line((key,), _text(problem, expected(field), value), value)


def _line(location: tuple[int | str, ...], text: str, value: Any) -> InitErrorDetails:
    # The text is passed as a value, not as the template, in which braces would be placeholders.
    return InitErrorDetails(type=PydanticCustomError(_EXPLAINED, "{text}", {"text": text}), loc=location, input=value)


def _text(error: Rejected, declared: str, value: Any) -> str:
    text = f"{error.problem}; expected {error.expected or declared}"
    return text if error.problem == "missing" else f"{text}, got {show(value if error.got is _INPUT else error.got)}"


def _unknown(key: str, known: Sequence[str], *, has_hint: bool) -> str:
    near = difflib.get_close_matches(key, known, n=1) if has_hint else ()  # slow for thousands of keys
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown key; expected one of {', '.join(sorted(known))}{hint}"


def show(value: Any) -> str:
    """Return a value as it is shown in messages: shortened, and with the words of YAML for None and booleans."""
    if value is None or value is True or value is False:
        return {None: "null", True: "true", False: "false"}[value]
    return shown(value)


def show_key(key: str) -> str:
    """Return a key as it is shown in messages: as it is if it is a short word, else quoted and shortened."""
    return key if _WORD.fullmatch(key) else shown(key)


def expected(field: FieldInfo) -> str:
    """Return a noun phrase for the values that a key allows."""
    text = _expected(field.annotation, field.metadata)
    if any(isinstance(entry, Several) for entry in field.metadata):
        text = f"{text}, or a list of them"
    return f"{text}, or {AUTO}" if is_automatic(field) else text


def is_automatic(field: FieldInfo) -> bool:
    """Return whether a search file may leave the choice of a value to the program."""
    return any(isinstance(entry, Automatic) for entry in field.metadata)


def _expected(annotation: Any, metadata: Sequence[Any]) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _expected(arguments[0], [*arguments[1:], *metadata])
    explicit = next((str(entry) for entry in metadata if isinstance(entry, Expected)), None)
    if origin in (Union, types.UnionType):
        text = explicit or _expected(arguments[0], metadata)
        return f"{text}, or null" if types.NoneType in arguments else text
    if explicit is not None:
        return explicit
    if origin is Literal:
        return f"one of {', '.join(arguments)}"
    return _PLAIN.get(annotation, "a mapping") + _bounds(metadata)


def _bounds(metadata: Sequence[Any]) -> str:
    words = ((Gt, "gt", "above"), (Ge, "ge", "of at least"), (Le, "le", "at most"), (Lt, "lt", "below"))
    bounds = [
        f"{word} {getattr(entry, name):.10g}"
        for entry in metadata
        for kind, name, word in words
        if isinstance(entry, kind)
    ]
    return f" {' and '.join(bounds)}" if bounds else ""
