"""Differences of two configurations that make their scores incomparable."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from nas.config.class_prompts import DEFAULT_PROMPTS

_FREE_SECTIONS = ("budget", "compare")
# Cached or computed, features are equal up to the rounding to float16.
_FREE_KEYS = frozenset({"features.disk", "features.storage"})
_LATER_KEYS = frozenset({"search.distill"})
"""Keys of what comes after everything that is compared, and changes nothing of it."""
_ADDED_KEYS = {
    "recipe.precision": "float32",
    "features.storage": "auto",
    "search.distill": False,
    "data.class_prompts": DEFAULT_PROMPTS,
    "pretraining.steps": 0,
    "pretraining.text_steps": 0,
    "pretraining.objectives": None,
    "pretraining.queue_size": 1_024,
    "pretraining.momentum": 0.995,
    "pretraining.distillation": 0.4,
    "pretraining.hard_negatives": True,
    "pretraining.learning_rate": None,
    "pretraining.checkpoint_steps": 100,
    "data.task": "classification",
    "data.classes": "all",
    "data.shots": None,
    "data.validation_shots": None,
    "data.shots_seed": 0,
}
"""Keys that older runs lack, with the value that all of them had."""
_FIXED_KEYS = frozenset({"budget.oversized"})  # changes how a candidate is trained, not how many are


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return every key whose change makes new scores incomparable with the stored ones.

    Budgets, the section `compare` and `search.distill` may change between two sessions of a search, and so may
    `features.disk` and `features.storage` unless the search is deterministic.

    Args:
        old: The stored configuration, see `nas.config.schema.Config.as_dict`.
        new: The configuration of this session.

    Returns:
        One line per key, in alphabetical order: its dotted path, the old value and the new value.
    """
    before, after = {**_ADDED_KEYS, **dict(_leaves(old))}, {**_ADDED_KEYS, **dict(_leaves(new))}
    free = _LATER_KEYS if after.get("deterministic") else _LATER_KEYS | _FREE_KEYS
    return [
        f"{path}: {_as_json(before, path)} → {_as_json(after, path)}"
        for path in sorted(before.keys() | after.keys())
        if path not in free and not _is_free(path) and _as_json(before, path) != _as_json(after, path)
    ]


def all_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return every key with another value: its dotted path, the old value and the new value, in alphabetical order.

    Args:
        old: A configuration; see `nas.config.schema.Config.as_dict`.
        new: Another.
    """
    before, after = dict(_leaves(old)), dict(_leaves(new))
    pairs = ((path, _as_json(before, path), _as_json(after, path)) for path in sorted(before.keys() | after.keys()))
    return [(path, one, other) for path, one, other in pairs if one != other]


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _is_free(path: str) -> bool:
    return path.partition(".")[0] in _FREE_SECTIONS and path not in _FIXED_KEYS


def _as_json(leaves: Mapping[str, Any], path: str) -> str:
    """Return a value as JSON, in which a tuple and the list that it is stored as are equal."""
    return json.dumps(leaves[path], sort_keys=True) if path in leaves else "(missing)"
