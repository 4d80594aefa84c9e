"""What may change between two sessions of a search, and what of it has changed although it must not."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

_FREE_SECTIONS = ("budget", "compare")
_FREE_KEYS = frozenset({"features.disk"})  # the same numbers, from disk or computed
_FIXED_KEYS = frozenset({"budget.when_too_large"})  # decides how a candidate is trained, not how many are


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Every key of a configuration whose change would give scores that cannot be compared with the stored ones.

    Args:
        old: Nested plain values, as they were stored; see `nas.config.config_as_dict`.
        new: The same of this session.

    Returns:
        One line a key in alphabetical order: its dotted path, the old value and the new one. Budgets may change, that
        of the disk as well, so they are not among them; what is done with a candidate that does not fit is. Comparisons
        are no part of it.
    """
    before, after = dict(_leaves(old)), dict(_leaves(new))
    return [
        f"{path}: {_shown(before, path)} → {_shown(after, path)}"
        for path in sorted(before.keys() | after.keys())
        if not _is_free(path) and _shown(before, path) != _shown(after, path)
    ]


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _is_free(path: str) -> bool:
    return path in _FREE_KEYS or (path.partition(".")[0] in _FREE_SECTIONS and path not in _FIXED_KEYS)


def _shown(leaves: Mapping[str, Any], path: str) -> str:
    """A value as JSON, in which a tuple and the list that it is stored as are the same."""
    return json.dumps(leaves[path], sort_keys=True) if path in leaves else "(missing)"
