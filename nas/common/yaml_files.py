"""Read YAML of a user as plain values: texts, numbers, booleans, null, lists, and mappings with texts as keys.

Nothing else can come out: no dates, no binary, octal or sexagesimal numbers, no objects of tags. What is read is a
subset of what `yaml.safe_dump` distinguishes from text, so everything that it writes is read back as it was. Depth,
size and the expansion of aliases are bounded while parsing, before anything is built from them.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from nas.common.boundary import MEBIBYTE, read_text, reading, shown
from nas.common.errors import NasError

MAX_DEPTH = 40
MAX_EXPANDED = MEBIBYTE
"""The characters and nodes that aliases may add to a document."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # PyYAML can be built without libyaml
_NO_TEXT = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?")
_SPECIAL = re.compile(r"([-+]?)\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_MERGE = "<<"


class YamlError(ValueError):
    """A text is not YAML of the allowed kind; the message names the line."""


def read_yaml(
    path: Path, *, expected: str, error: Callable[[str], NasError] = NasError, max_bytes: int = MEBIBYTE
) -> Any:
    """Return the plain value of a YAML file of the user.

    Args:
        path: The file.
        expected: A noun phrase for the file that is expected.
        error: The type of the error, or a function that builds it from its message.
        max_bytes: The size that the file may have.

    Raises:
        NasError: If it cannot be read, or is not YAML of the allowed kind; the message names the line.
    """
    text = read_text(path, expected=expected, error=error, max_bytes=max_bytes)
    with reading(path, expected=expected, error=error, problem="is not valid YAML"):
        return parse_yaml(text)


def parse_yaml(text: str) -> Any:
    """Return the plain value of a YAML document; None if it is empty.

    Args:
        text: The document.

    Raises:
        YamlError: If it is not valid, has tags, more than one document or a key twice, or exceeds a bound.
    """
    stray = _NO_TEXT.search(text)
    if stray is not None:
        raise YamlError(f"line {text.count(chr(10), 0, stray.start()) + 1}: control character {shown(stray[0])}")
    composer = _Composer()
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            composer.add(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = "" if mark is None else f"line {mark.line + 1}: "
        raise YamlError(f"{place}{error.problem or error.context}") from error
    return composer.value


@dataclass
class _Node:
    """A finished value.

    Args:
        value: The value.
        size: The number of its characters and nodes, with aliases expanded.
        height: The number of collections on its longest path.
        text: The text of a scalar, which it has as a key; None for collections.
        is_plain: Whether it is a scalar without quotes.
    """

    value: Any
    size: int
    height: int = 0
    text: str | None = None
    is_plain: bool = False


@dataclass
class _Open:
    """A collection whose end has not been read."""

    anchor: str | None
    entries: dict[str, Any] | list[Any]
    size: int = 1
    height: int = 1
    key: str | None = None
    is_merge: bool = False
    merged: list[dict[str, Any]] = field(default_factory=list)

    def node(self) -> _Node:
        if isinstance(self.entries, dict):
            for other in self.merged:
                for key, value in other.items():
                    self.entries.setdefault(key, value)
        return _Node(self.entries, self.size, self.height)


class _Composer:
    """Builds the value of a document from the events of the parser, without recursion."""

    def __init__(self) -> None:
        self.value: Any = None
        """The value of the document, once all events are added."""
        self._open: list[_Open] = []
        self._anchors: dict[str, _Node | None] = {}
        self._expanded = 0
        self._documents = 0
        self._line = 0

    def add(self, event: yaml.Event) -> None:
        """Add the next event.

        Raises:
            YamlError: If it is not allowed.
        """
        self._line = self._line if event.start_mark is None else event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise self._error("a second document starts here; expected one")
        elif isinstance(event, yaml.AliasEvent):
            node = self._aliased(event.anchor)
            self._expanded += node.size
            if self._expanded > MAX_EXPANDED:
                raise self._error(f"aliases expand to more than {MAX_EXPANDED:,} characters; expected fewer")
            self._finish(node)
        elif isinstance(event, yaml.ScalarEvent):
            self._check(event)
            if _SURROGATE.search(event.value):  # libyaml refuses them itself
                raise self._error("half of a surrogate pair")
            node = _scalar(event.value, is_plain=event.implicit[0])
            self._remember(event.anchor, node)
            self._finish(node)
        elif isinstance(event, yaml.SequenceStartEvent | yaml.MappingStartEvent):
            self._check(event)
            self._remember(event.anchor, None)
            self._open.append(_Open(event.anchor, {} if isinstance(event, yaml.MappingStartEvent) else []))
            self._check_depth(0)
        elif isinstance(event, yaml.CollectionEndEvent):
            closed = self._open.pop()
            node = closed.node()
            self._remember(closed.anchor, node)
            self._finish(node)

    def _finish(self, node: _Node) -> None:
        """Put a finished value where it belongs."""
        if not self._open:
            self.value = node.value
            return
        parent = self._open[-1]
        parent.size += node.size
        parent.height = max(parent.height, node.height + 1)
        if isinstance(parent.entries, list):
            parent.entries.append(node.value)
        elif parent.is_merge:
            parent.merged += self._mappings(node.value)
            parent.is_merge = False
        elif parent.key is not None:
            parent.entries[parent.key], parent.key = node.value, None
        else:
            self._start_entry(parent, parent.entries, node)

    def _start_entry(self, parent: _Open, entries: dict[str, Any], key: _Node) -> None:
        if key.text is None:
            raise self._error(f"a key is {'a list' if isinstance(key.value, list) else 'a mapping'}; expected a text")
        if key.is_plain and key.text == _MERGE:
            if parent.merged:
                raise self._error(f"duplicate key {_MERGE!r}")
            parent.is_merge = True
            return
        if key.text in entries:
            raise self._error(f"duplicate key {shown(key.text)}")
        parent.key = key.text
        entries[key.text] = None

    def _mappings(self, value: Any) -> list[dict[str, Any]]:
        """Return the mappings whose keys are added to another one; earlier ones win."""
        found = value if isinstance(value, list) else [value]
        if not found or not all(isinstance(entry, dict) for entry in found):
            raise self._error(f"key {_MERGE!r}: expected an alias of a mapping or a list of them, got {shown(value)}")
        return found

    def _aliased(self, name: str | None) -> _Node:
        if name is None or name not in self._anchors:
            raise self._error(f"unknown alias {shown(name)}")
        node = self._anchors[name]
        if node is None:
            raise self._error(f"alias {shown(name)} is inside the value that it stands for")
        self._check_depth(node.height)
        return node

    def _remember(self, anchor: str | None, node: _Node | None) -> None:
        if anchor is not None:
            self._anchors[anchor] = node

    def _check(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> None:
        if event.tag is not None:
            raise self._error(f"tag {shown(event.tag)}; expected a value without a tag")

    def _check_depth(self, height: int) -> None:
        if len(self._open) + height > MAX_DEPTH:
            raise self._error(f"nested more than {MAX_DEPTH} levels deep")

    def _error(self, problem: str) -> YamlError:
        return YamlError(f"line {self._line}: {problem}")


def _scalar(text: str, *, is_plain: bool) -> _Node:
    return _Node(_resolved(text) if is_plain else text, len(text) + 1, text=text, is_plain=is_plain)


def _resolved(text: str) -> Any:
    """Return the value of a scalar without quotes; a text if it is nothing else."""
    if text in _WORDS:
        return _WORDS[text]
    if not text[0].isdigit() and text[0] not in "+-.":
        return text
    special = _SPECIAL.fullmatch(text)
    try:
        if special is not None:
            return float(text.replace(".", "").lower())
        if _FLOAT.fullmatch(text):
            return float(text)
        return int(text) if _INTEGER.fullmatch(text) else text
    except ValueError:  # more digits than Python converts
        return text
