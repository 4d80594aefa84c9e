"""Expand a search file that lists several encoders or families into its arms: one ordinary search for each combination.

An arm is a search with one image encoder, one text encoder and one family. Everything else is the same for all arms.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from nas.config.section import AUTO, show

KEYS = (("encoders", "image"), ("encoders", "text"), ("family",))
"""The keys that may be lists."""

MAX_ARMS = 64
"""The number of arms that a search may have: each one is trained at least once."""

_MAX_NAME = 60
_DEFAULT_FAMILY = "pmf"


@dataclass(frozen=True)
class ArmValues:
    """The search file of one arm.

    Args:
        name: The name of the arm, which its folder has: image encoder, text encoder and family.
        values: The content of its search file.
    """

    name: str
    values: dict[str, Any]


def expand(values: Any) -> list[ArmValues]:
    """Return the search file of every arm, in the order of the lists; the first key changes slowest.

    Args:
        values: The content of the search file, which may be invalid. One without lists, or with lists of one entry, is
            a single arm.

    Raises:
        ValueError: If a list cannot be expanded. Its arguments are the problems, one line for each.
    """
    if not isinstance(values, dict):
        return [ArmValues("", values)]
    lists = {key: _at(values, key) for key in KEYS}
    problems = [line for key, entries in lists.items() for line in _problems(key, entries)]
    several = [key for key, entries in lists.items() if isinstance(entries, list)]
    families = lists[("family",)]
    if isinstance(families, list) and len(families) > 1:
        problems += _family_problems(values, families)
    if several and _at(values, ("data", "task")) == "retrieval" and any(len(lists[key]) > 1 for key in several):
        keys = ", ".join(".".join(key) for key in several)
        problems.append(
            f"{keys}: list of arms; expected one image encoder, one text encoder and one family with data.task: "
            "retrieval"
        )
    if problems:
        raise ValueError(*problems)
    choices = [[(key, entry) for entry in lists[key]] for key in several]
    count = len(list(itertools.islice(itertools.product(*choices), MAX_ARMS + 1)))
    if count > MAX_ARMS:
        keys = ", ".join(".".join(key) for key in several)
        raise ValueError(f"{keys}: too many entries; expected at most {MAX_ARMS} combinations, got {count}")
    expanded = [_arm_values(values, dict(chosen)) for chosen in itertools.product(*choices)]
    names = unique([_name(arm) for arm in expanded])
    return [ArmValues(name, arm) for name, arm in zip(names, expanded, strict=True)]


def unique(names: list[str]) -> list[str]:
    """Return names that differ even where letters of both cases are one, each with a number where it occurs again."""
    taken: set[str] = set()
    found = []
    for name in names:
        numbered = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
        free = next(candidate for candidate in numbered if candidate.lower() not in taken)
        taken.add(free.lower())
        found.append(free)
    return found


def _at(values: Mapping[str, Any], key: tuple[str, ...]) -> Any:
    found: Any = values
    for name in key:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _problems(key: tuple[str, ...], entries: Any) -> Iterator[str]:
    name = ".".join(key)
    if not isinstance(entries, list):
        return
    if not entries:
        yield f"{name}: empty list; expected at least one entry, got []"
    seen: set[str] = set()
    for index, entry in enumerate(entries[: MAX_ARMS + 1]):
        if not isinstance(entry, str) or not entry:
            yield f"{name}.{index}: invalid value; expected text, got {show(entry)}"
        elif entry in seen:
            yield f"{name}.{index}: listed twice; expected entries that differ, got {show(entry)}"
        else:
            seen.add(entry)


def _family_problems(values: Mapping[str, Any], families: list[Any]) -> Iterator[str]:
    """Yield the problems of the keys that depend on the family, where there are several."""
    space, search = values.get("space", AUTO), values.get("search")
    allowed = ", ".join(str(show(family)) for family in families[:MAX_ARMS])
    if space != AUTO and not isinstance(space, Mapping):
        yield f"space: invalid value; expected a mapping of families ({allowed}) to their genes, got {show(space)}"
    elif space != AUTO:
        for key in space:
            if key not in families:
                yield f"space: unknown key; with several families, expected any of {allowed}, got {show(key)}"
    if isinstance(search, Mapping) and search.get("initial_architectures"):
        yield "search.initial_architectures: not allowed with several families; expected no such key"


def _arm_values(values: dict[str, Any], chosen: Mapping[tuple[str, ...], str]) -> dict[str, Any]:
    """Return the content of the search file with one entry of each list."""
    arm = dict(values)
    for key, entry in chosen.items():
        if len(key) == 1:
            arm[key[0]] = entry
        else:
            arm[key[0]] = {**arm[key[0]], key[1]: entry}
    families = values.get("family")
    if isinstance(families, list) and len(families) > 1 and isinstance(arm.get("space"), dict):
        space = arm.pop("space").get(arm["family"], AUTO)
        arm |= {} if space == AUTO else {"space": space}
    return arm


def _name(values: Mapping[str, Any]) -> str:
    encoders = [_short(_at(values, key)) for key in KEYS[:2]]
    return "+".join([*encoders, _short(values.get("family", _DEFAULT_FAMILY))])


def _short(name: Any) -> str:
    """Return the last part of a path or of the name of a model, as a folder may be called."""
    last = PurePath(name).name if isinstance(name, str) and name else AUTO
    return re.sub(r"[^A-Za-z0-9._-]", "_", last)[:_MAX_NAME].strip(".-") or "encoder"
