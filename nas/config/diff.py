"""What may change between two sessions of a search, and what of it has changed although it must not."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

_FREE_SECTIONS = ("budget", "compare")
_FREE_KEYS = frozenset({"features.disk"})  # the same numbers, from disk or computed, but for float16's rounding
_FIXED_KEYS = frozenset({"budget.oversized"})  # decides how a candidate is trained, not how many are


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Every key of a configuration whose change would give scores that cannot be compared with the stored ones.

    Args:
        old: Nested plain values, as they were stored; see `nas.config.load.config_as_dict`.
        new: The same of this session.

    Returns:
        One line a key in alphabetical order: its dotted path, the old value and the new one. Budgets may change, so
        they are not among them, nor is that of the disk, unless the search is deterministic; what is done with a
        candidate that does not fit is. Comparisons are no part of it.
    """
    before, after = dict(_leaves(old)), dict(_leaves(new))
    free = frozenset() if after.get("deterministic") else _FREE_KEYS
    return [
        f"{path}: {_shown(before, path)} → {_shown(after, path)}"
        for path in sorted(before.keys() | after.keys())
        if path not in free and not _is_budget(path) and _shown(before, path) != _shown(after, path)
    ]


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _is_budget(path: str) -> bool:
    return path.partition(".")[0] in _FREE_SECTIONS and path not in _FIXED_KEYS


def _shown(leaves: Mapping[str, Any], path: str) -> str:
    """A value as JSON, in which a tuple and the list that it is stored as are the same."""
    return json.dumps(leaves[path], sort_keys=True) if path in leaves else "(missing)"
