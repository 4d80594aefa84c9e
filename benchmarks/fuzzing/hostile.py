"""Hostile values, bytes and places that every kind of input is mutated with."""

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

Tree: TypeAlias = Any
"""A value of JSON or YAML: nested dicts and lists of plain values."""

NUMBERS: Sequence[Any] = (
    *(0, -1, 1, 2, 3, 10**3, 10**6, 10**9, 10**19, 10**400, 2**31, 2**63, 2**64),
    *(0.0, -0.0, 0.5, -1.5, 1e-300, 1e300, float("inf"), float("-inf"), float("nan")),
)
TEXTS: Sequence[str] = (
    *("", " ", "\t", "\n", "x", "x" * 300, "x" * 100_000, "NaN", "none", "null", "true", "0x10", "1_000", "1e5", "-5"),
    *(
        "../../x",
        "/",
        "/dev/zero",
        "/dev/null",
        "~nobody/x",
        "C:\\x\\y",
        "a\\b",
        "package:os",
        "package:",
        "http://x/y",
    ),
    *("\u202e", "é", "e\u0301", "😀", "\ud800", "a\x00b", "\x1b[31m", "=1+1", "<b>x</b>", "{{7*7}}", "%s%n", "[x](y)"),
    *("2020-13-45", "12:30:45", "0b_", "4m", "-4m", "1e400h", "3GiB", "-3GiB", "1" * 400 + "GiB", "9" * 5_000),
)


def hostile_value(rng: random.Random) -> Tree:
    """Return a value that hardly any key allows."""
    kind = rng.randrange(8)
    if kind < 3:
        return rng.choice(NUMBERS)
    if kind < 6:
        return rng.choice(TEXTS)
    nested: Tree = rng.choice(TEXTS)
    for _ in range(rng.choice((1, 2, 50))):
        nested = [nested] if rng.random() < 0.5 else {"x": nested}
    return rng.choice((None, True, False, [], {}, [None], {"": None}, nested, list(range(200))))


def nodes(tree: Tree, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all nodes of a tree but its root."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [found for key, value in items for found in ((*path, key), *nodes(value, (*path, key)))]


def mutate_tree(tree: Tree, rng: random.Random) -> tuple[Tree, str]:
    """Change one node of a tree; return the tree, changed in place where it can be, and a description."""
    paths = nodes(tree)
    if not paths or rng.random() < 0.02:
        value = hostile_value(rng)
        return value, f"the whole becomes {value!r:.60}" if not isinstance(value, int) else "the whole is a number"
    path = rng.choice(paths)
    parent = tree
    for key in path[:-1]:
        parent = parent[key]
    name, last = ".".join(str(key) for key in path), path[-1]
    action = rng.randrange(10)
    if action == 0:
        del parent[last]
        return tree, f"{name} is deleted"
    if action == 1 and isinstance(parent, dict):
        parent[f"{last}s"] = parent.pop(last)
        return tree, f"{name} is renamed"
    if action == 2:
        parent[last] = [parent[last]]
        return tree, f"{name} is in a list"
    if action == 3 and isinstance(parent[last], int | float) and not isinstance(parent[last], bool):
        parent[last] = parent[last] * rng.choice((-1, 10, 1e6, 0.5)) + rng.choice((0, 1))
        return tree, f"{name} is another number"
    parent[last] = hostile_value(rng)
    return tree, f"{name} is a hostile {type(parent[last]).__name__}"


def mutate_bytes(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Damage the bytes of a file; return them and a description."""
    at = rng.randrange(len(content) + 1)
    stop = min(at + rng.randrange(1, 64), len(content))
    lines = content.split(b"\n")
    line = rng.randrange(len(lines))
    swapped = lines[:line] + lines[line + 1 :] + lines[line : line + 1]
    choices: list[tuple[bytes, str]] = [
        (content[:at], f"cut to {at} bytes"),
        (b"", "is empty"),
        (content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :], f"byte {at} is another one"),
        (content[:at] + b"\x00" + content[at:], f"NUL at byte {at}"),
        (content[:at] + b"\xff\xfe" + content[at:], f"bytes FF FE at {at}"),
        (content[:at] + content[at:stop] * 3 + content[stop:], f"bytes {at} to {stop} three times"),
        (content[:at] + content[stop:], f"bytes {at} to {stop} are missing"),
        (content + b"\x00\x01garbage", "garbage at the end"),
        (b"\xef\xbb\xbf" + content, "a byte order mark"),
        (b"\n".join(swapped), f"line {line + 1} moved to the end"),
        (b"\n".join(lines[:line] + lines[line : line + 1] * 2 + lines[line + 1 :]), f"line {line + 1} twice"),
        (b"\n".join(lines[:line] + lines[line + 1 :]), f"line {line + 1} is missing"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n", "a Git LFS pointer"),
        (rng.randbytes(len(content) or 10), "random bytes"),
        (b"[" * 100_000, "100,000 brackets"),
        (b"9" * 5_000, "a number of 5,000 digits"),
    ]
    return rng.choice(choices)


def _replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _link_to(target: str) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        path.unlink()
        path.symlink_to(target if target else path.name)

    return replace


def _make_sparse(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(40 * 1024**3)


PLACES: Sequence[tuple[str, Callable[[Path], None]]] = (
    ("is missing", Path.unlink),
    ("is a folder", _replace_by_folder),
    ("is a named pipe", _replace_by_pipe),
    ("links to itself", _link_to("")),
    ("links to /dev/zero", _link_to("/dev/zero")),
    ("links to nothing", _link_to("nowhere")),
    ("has 40 GiB", _make_sparse),
)
"""What a file may be in place of a readable file."""


def mutate_file(path: Path, rng: random.Random) -> str:
    """Damage a file, or put something else in its place; return a description."""
    if rng.random() < 0.15:
        description, replace = rng.choice(PLACES)
        replace(path)
        return f"{path.name} {description}"
    content, description = mutate_bytes(path.read_bytes(), rng)
    path.write_bytes(content)
    return f"{path.name}: {description}"
