"""Mutated search files."""

import copy
import json
import random
from pathlib import Path
from typing import Any

import yaml

from benchmarks.fuzzing.cases import COMMANDS, Mutation
from benchmarks.fuzzing.hostile import NUMBERS, TEXTS, mutate_bytes, mutate_file, mutate_tree, nodes

_EXTRA: dict[str, Any] = {
    "features": {"dtype": "float16", "disk": "1GiB", "attention": True, "views": 1},
    "compare": {"learning_rates": [0.001, 0.01]},
    "threads": 1,
}
_SNIPPETS = (
    *("!!int x", "!!python/object/apply:os.getcwd []", "!!timestamp 2020-13-45", "!!binary '*'", "!!set {a, a}"),
    *(
        "!!float ''",
        "!!null x",
        "!!bool 3",
        "!x y",
        "&a [*a]",
        "*nowhere",
        "<<: *x",
        "2020-13-45",
        "0b_",
        "0o9",
        "1:99",
    ),
    *('"\\U00110000"', '"\\ud800"', "[" * 2_000, "{" * 500, "- " * 3_000, "? ", "| \n\n", ".inf", "-.NaN", "0x"),
    *("9" * 400, "9" * 5_000, "1e99999", "-" + "9" * 400, "'" + "x" * 300 + "'", "%TAG ! x", "---\na: 1", "@", "`"),
)
_AUTOMATIC = ("memory", "steps", "batch_size", "image_readout", "optimizer", "image")
_ENCODERS: tuple[Any, ...] = (
    "./vit",
    "vit",
    "./bert",
    "./bert",
    "nowhere",
    "package:nowhere/x",
    "",
    3,
    None,
    ["./vit"],
)
_FAMILIES: tuple[Any, ...] = ("pmf", "pmf", "linear", "late_concat", "text_only", "nothing", "", 7, None, ["pmf"])
_OPTIONS = ("--memory-budget",)
_BUDGETS = (*("0", "-1", "nan", "inf", "1e400", "3gb", "", " ", "3GiB3", "٣GiB", "1_0GiB"), "9" * 400, "9" * 5_000)


def mutate_search_file(root: Path, rng: random.Random) -> Mutation:
    """Change the search file of a project in one or several places, or the options that replace its values."""
    path = root / "search.yaml"
    mutators = (
        *(_change_nodes, _change_nodes, _change_nodes, _change_text, _insert, _expand, _extend, _move, _options),
        _leave_open,
    )
    return rng.choice(mutators)(path, rng)


def _tree(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {**values, **copy.deepcopy(_EXTRA)}  # mutated in place


def _change_nodes(path: Path, rng: random.Random) -> Mutation:
    tree: Any = _tree(path)
    descriptions = []
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        tree, description = mutate_tree(tree, rng)
        descriptions.append(description)
    _write(path, tree, rng)
    return Mutation("; ".join(descriptions), COMMANDS["space"])


def _leave_open(path: Path, rng: random.Random) -> Mutation:
    """Leave values to the program or to arms: `auto`, sections left out, lists of encoders and families."""
    tree: Any = _tree(path)
    done = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        sections = [name for name, value in tree.items() if isinstance(value, dict) and name != "data"]
        section = rng.choice(sections)
        kind = rng.choice(("auto", "auto section", "left out", "encoders", "families"))
        if kind == "auto":
            key = rng.choice([*tree[section], *_AUTOMATIC])
            tree[section][key] = "auto"
            done.append(f"{section}.{key}: auto")
        elif kind == "encoders":
            modality = rng.choice(("image", "text"))
            found = [rng.choice(_ENCODERS) for _ in range(rng.choice((0, 1, 2, 2, 3)))]
            given = tree.get("encoders")
            tree["encoders"] = {**(given if isinstance(given, dict) else {}), modality: found}
            done.append(f"encoders.{modality}: {found!r:.60}")
        elif kind == "families":
            tree["family"] = [rng.choice(_FAMILIES) for _ in range(rng.choice((0, 1, 2, 2)))]
            done.append(f"family: {tree['family']}")
        elif len(sections) > 2:
            del tree[section]
            if kind == "auto section":
                tree[section] = "auto"
            done.append(f"{section}: {kind}")
    if rng.random() < 0.4:
        tree, description = mutate_tree(tree, rng)
        done.append(description)
    _write(path, tree, rng)
    return Mutation("; ".join(done), COMMANDS["space"])


def _write(path: Path, tree: Any, rng: random.Random) -> None:
    if rng.random() < 0.3:
        text = json.dumps(tree)
    else:
        text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=rng.random() < 0.5)
    if rng.random() < 0.3:
        text = text.replace("'", "").replace('"', "")
    path.write_text(text, encoding="utf-8", errors="surrogatepass")


def _change_text(path: Path, rng: random.Random) -> Mutation:
    if rng.random() < 0.1:
        return Mutation(mutate_file(path, rng), COMMANDS["space"])
    content, description = mutate_bytes(path.read_bytes(), rng)
    if rng.random() < 0.05:
        encoding = rng.choice(("utf-16", "utf-32", "cp500", "utf-7"))
        content, description = path.read_text(encoding="utf-8").encode(encoding), f"in {encoding}"
    path.write_bytes(content)
    return Mutation(description, COMMANDS["space"])


def _insert(path: Path, rng: random.Random) -> Mutation:
    """Put YAML syntax in the place of a value, or between two lines."""
    snippet = rng.choice(_SNIPPETS)
    lines = yaml.safe_dump(_tree(path), sort_keys=False).splitlines()
    at = rng.randrange(len(lines))
    if ": " in lines[at] and rng.random() < 0.7:
        lines[at] = f"{lines[at].split(': ')[0]}: {snippet}"
    else:
        lines.insert(at, snippet)
    path.write_text("\n".join(lines), encoding="utf-8")
    return Mutation(f"line {at + 1} has {snippet[:40]!r}", COMMANDS["space"])


def _expand(path: Path, rng: random.Random) -> Mutation:
    """Make the file large, or let it expand to something large."""
    text, levels = path.read_text(encoding="utf-8"), rng.randrange(2, 12)
    laughs = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    laughs += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    kind, added = rng.choice(
        (
            (f"{levels} levels of aliases", "\n".join(laughs)),
            (f"an expanding value of {levels} levels", "\n".join(laughs) + f"\nfeatures: *a{levels - 1}"),
            ("20,000 keys", "\n".join(f"key{n}: {n}" for n in range(20_000))),
            ("20,000 keys in a section", "features:\n" + "\n".join(f"  key{n}: {n}" for n in range(20_000))),
            ("the same key 5,000 times", "seed: 1\n" * 5_000),
            ("a text of 10 MB", f"name: {'x' * 10**7}"),
            ("5,000 nested mappings", "".join("  " * n + f"k{n}:\n" for n in range(1_000))),
            ("merged mappings", "m: &m {a: 1}\n" + "features:\n" + "  <<: *m\n" * 3_000),
        )
    )
    path.write_text(f"{text}\n{added}\n", encoding="utf-8")
    return Mutation(kind, COMMANDS["space"])


def _extend(path: Path, rng: random.Random) -> Mutation:
    """Let another file extend a mutated one, itself, or nothing."""
    parent = path.with_name("parent.yaml")
    parent.write_bytes(path.read_bytes())
    child: dict[str, Any] = {"extends": "parent.yaml", "seed": 2}
    if rng.random() < 0.5:
        tree, description = mutate_tree(_tree(parent), rng)
        _write(parent, tree, rng)
    elif rng.random() < 0.5:
        description = mutate_file(parent, rng)
    else:
        child["extends"] = rng.choice(
            ("search.yaml", ".", "/dev/zero", "", "nowhere.yaml", 3, ["parent.yaml"], *TEXTS[:8])
        )
        description = f"extends {child['extends']!r:.40}"
    _write(path, child, rng)
    return Mutation(f"of the extended file: {description}", COMMANDS["space"])


def _move(path: Path, rng: random.Random) -> Mutation:
    """Move a value to another key, so that its type is a possible one and its place is wrong."""
    tree = _tree(path)
    first, second = rng.sample(nodes(tree), 2)
    while first[: len(second)] == second or second[: len(first)] == first:
        first, second = rng.sample(nodes(tree), 2)
    values = [_at(tree, first), _at(tree, second)]
    for place, value in ((first, values[1]), (second, values[0])):
        _at(tree, place[:-1])[place[-1]] = value
    _write(path, tree, rng)
    return Mutation(f"{'.'.join(map(str, first))} and {'.'.join(map(str, second))} are exchanged", COMMANDS["space"])


def _at(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _options(path: Path, rng: random.Random) -> Mutation:
    del path
    option, value = rng.choice(_OPTIONS), rng.choice((*_BUDGETS, *(str(number) for number in NUMBERS[:8])))
    return Mutation(f"{option} {value[:40]}", (*COMMANDS["space"], f"{option}={value}"))
