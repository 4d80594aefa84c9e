"""Registries of extensions: names, and where the code of each extension is found.

Entries name their classes and functions as `package.module:Name`, so that a registry can be listed without importing
torch. Built-in entries are registered by a function of this package, others through entry points of installed packages;
both are loaded the first time a registry is read.
"""

import importlib
import importlib.metadata
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from nas.common.errors import ExtensionError

Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """Entries of one kind of extension by name, in the order of their registration.

    Args:
        kind: The kind of the entries, for messages ("fusion family").
        builtins: The function that registers the built-in entries, as `package.module:function`.
        entry_points: The group of entry points through which other packages register entries; each entry point names a
            function without arguments. None if the kind has no entry points.
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
            raise ExtensionError(f"{self.kind} {name!r}: the name is taken; expected a new name")
        self._entries[name] = entry

    def names(self) -> tuple[str, ...]:
        """Return all names, the built-in ones first."""
        self._load()
        return tuple(self._entries)

    def get(self, name: str) -> Entry | None:
        """Return an entry, or None if the name is not registered."""
        self._load()
        return self._entries.get(name)

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
        self._is_loaded = True  # set first, since registering may read the registry
        earlier, self._entries = self._entries, {}
        try:
            load_object(self._builtins)()
            for name, entry in earlier.items():  # registered before the first read
                self.register(name, entry)
            self._load_entry_points()
        except BaseException:
            self._is_loaded, self._entries = False, earlier
            raise

    def _load_entry_points(self) -> None:
        if self._entry_points is None:
            return
        for point in importlib.metadata.entry_points(group=self._entry_points):
            try:
                point.load()()
            except ExtensionError:
                raise
            except Exception as error:  # code of another package may raise any error
                raise ExtensionError(
                    f"entry point {point.name} = {point.value!r} in group {self._entry_points}: failed to load "
                    f"({type(error).__name__}: {error}); expected a function without arguments that registers a "
                    f"{self.kind}"
                ) from error


def load_object(target: str) -> Any:
    """Import and return an object.

    Args:
        target: The object, as `package.module:Name`.

    Raises:
        ExtensionError: If the module or the name does not exist.
    """
    module, _, name = target.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ExtensionError(f"{target!r}: cannot be imported ({error}); expected package.module:Name") from error
