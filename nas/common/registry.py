"""Registries of extensions: names, and where the code of each is found.

An entry names its classes as `package.module:Name`, so that a registry can be listed without importing torch. Built-in
entries come from one module of this package, further ones from entry points of installed packages; both are loaded
when a registry is first asked.
"""

import importlib
import importlib.metadata
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from nas.common.errors import ExtensionError

Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """Entries of one kind of extension, by name, in the order of their registration.

    Args:
        kind: What an entry is, for messages ("fusion family").
        builtins: The module whose `register()` registers what this package brings.
        entry_points: The group of entry points through which other packages register theirs; each names a function
            without arguments that does so. None where the kind cannot be extended from outside.
    """

    def __init__(self, kind: str, *, builtins: str, entry_points: str | None = None) -> None:
        self.kind = kind
        self._builtins = builtins
        self._entry_points = entry_points
        self._entries: dict[str, Entry] = {}
        self._is_loaded = False

    def register(self, name: str, entry: Entry) -> None:
        """Add an entry.

        Raises:
            ExtensionError: If the name is taken.
        """
        if name in self._entries:
            raise ExtensionError(f"{self.kind} {name!r}: registered twice; expected a name that is not taken")
        self._entries[name] = entry

    def names(self) -> tuple[str, ...]:
        """All names, the built-in ones first."""
        self._load()
        return tuple(self._entries)

    def __getitem__(self, name: str) -> Entry:
        self._load()
        if name not in self._entries:
            raise KeyError(f"no {self.kind} {name!r}; registered: {', '.join(self._entries)}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def _load(self) -> None:
        if self._is_loaded:
            return
        self._is_loaded = True  # before registering, which may look names up
        importlib.import_module(self._builtins).register()
        if self._entry_points is None:
            return
        for point in importlib.metadata.entry_points(group=self._entry_points):
            try:
                point.load()()
            except ExtensionError:
                raise
            except Exception as error:  # code of another package
                raise ExtensionError(
                    f"entry point {point.name} = {point.value!r} of group {self._entry_points}: cannot be loaded "
                    f"({type(error).__name__}: {error}); expected a function without arguments that registers a "
                    f"{self.kind}"
                ) from error


def load_object(target: str) -> Any:
    """Import what a string names.

    Args:
        target: `package.module:Name`.

    Raises:
        ExtensionError: If there is no such module, or nothing of that name in it.
    """
    module, _, name = target.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ExtensionError(f"{target!r}: cannot be imported ({error}); expected package.module:Name") from error
