"""Mutated folders of encoders and exported models, and mutated run directories."""

import json
import random
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.fuzzing.cases import COMMANDS, Mutation
from benchmarks.fuzzing.hostile import hostile_value, mutate_file, mutate_tree, nodes

_NUMERIC: Mapping[str, Any] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2")}


def mutate_checkpoint(root: Path, rng: random.Random) -> Mutation:
    """Change the folder of an encoder, which a new search reads, or a finished one knows."""
    folder = root / rng.choice(("vit", "bert"))
    if rng.random() < 0.25:
        description = _change_weight(folder / "model.safetensors", rng)
        command = rng.choice(("resume", "again", "export"))
        return Mutation(f"{folder.name}: {description}", COMMANDS[command], is_known=True)
    description = _change_any(folder, rng)
    return Mutation(f"{folder.name}: {description}", COMMANDS[rng.choice(("space", "search", "search", "compare"))])


def mutate_model_folder(root: Path, rng: random.Random) -> Mutation:
    """Change the folder of an exported model."""
    folder = root / "model"
    command = COMMANDS[rng.choice(("evaluate", "predict"))]
    if rng.random() < 0.3:
        if rng.random() < 0.5:
            description = _change_weight(folder / "model.safetensors", rng)
        else:
            description = _change_number(folder / rng.choice(("preprocessor_config.json", "config.json")), rng)
        return Mutation(description, command, is_known=True)
    return Mutation(_change_any(folder, rng), command)


def mutate_run_directory(root: Path, rng: random.Random) -> Mutation:
    """Change a file of a finished run, whose results must stay the recorded ones."""
    run = root / "run"
    files = sorted(path for path in run.rglob("*") if path.is_file() and path.name != "driver.lock")
    path = rng.choice(files)
    command = COMMANDS[rng.choice(("resume", "resume", "again", "export"))]
    name = path.relative_to(run).as_posix()
    action = rng.random()
    if action < 0.1 and path.name != "config.yaml":
        other = rng.choice(
            [file for file in files if file.suffix == path.suffix and file != path] or [run / "config.yaml"]
        )
        shutil.copyfile(other, path)
        return Mutation(f"run/{name} is replaced by {other.relative_to(run)}", command)
    if path.suffix == ".safetensors" and action < 0.5:
        return Mutation(f"run/{name}: {_change_weight(path, rng)}", command, is_known=True)
    if path.suffix in (".json", ".yaml") and action < 0.7:
        return Mutation(f"run/{name}: {_change_tree(path, rng)}", command, is_known=name != "config.yaml")
    if path.suffix == ".log" and action < 0.7:
        lines = path.read_bytes().splitlines(keepends=True)
        kept = rng.randrange(len(lines))
        path.write_bytes(b"".join(lines[:kept]))
        return Mutation(f"run/{name}: cut to {kept} of {len(lines)} lines", command, is_known=True)
    return Mutation(f"run/{name}: {mutate_file(path, rng)}", command)


def _change_any(folder: Path, rng: random.Random) -> str:
    path = rng.choice(sorted(path for path in folder.iterdir() if path.is_file() and path.suffix != ".md"))
    action = rng.random()
    if path.suffix == ".safetensors" and action < 0.7:
        return _change_header(path, rng)
    if path.suffix in (".json", ".yaml") and action < 0.75:
        return _change_tree(path, rng)
    return mutate_file(path, rng)


def _change_tree(path: Path, rng: random.Random) -> str:
    text = path.read_text(encoding="utf-8")
    tree = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    tree, description = mutate_tree(tree, rng)
    if path.suffix == ".json":
        path.write_text(json.dumps(tree), encoding="utf-8")
    else:
        path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return f"{path.name}: {description}"


def _change_number(path: Path, rng: random.Random) -> str:
    """Replace a number that shapes the result by another possible one."""
    tree: Any = json.loads(path.read_text(encoding="utf-8"))
    numbers = [place for place in nodes(tree) if isinstance(_at(tree, place), float)]
    place = rng.choice(numbers)
    _at(tree, place[:-1])[place[-1]] *= 0.9
    path.write_text(json.dumps(tree), encoding="utf-8")
    return f"{path.name}: {'.'.join(map(str, place))} is smaller"


def _at(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _parts(path: Path) -> tuple[dict[str, Any], bytearray]:
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + size]), bytearray(content[8 + size :])


def _write(path: Path, header: Any, data: bytes, size: int | None = None) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if size is None else size) + text + data)


def _change_weight(path: Path, rng: random.Random) -> str:
    """Change one weight of a file to another finite number."""
    header, data = _parts(path)
    names = [name for name, entry in header.items() if name != "__metadata__" and entry["dtype"] in _NUMERIC]
    name = rng.choice(names)
    start, stop = header[name]["data_offsets"]
    dtype = _NUMERIC[header[name]["dtype"]]
    values = np.frombuffer(bytes(data[start:stop]), dtype).copy()
    values[rng.randrange(len(values))] += 1
    data[start:stop] = values.tobytes()
    _write(path, header, bytes(data))
    return f"{path.name}: a number of {name} is changed"


def _change_header(path: Path, rng: random.Random) -> str:
    header, data = _parts(path)
    name = rng.choice([name for name in header if name != "__metadata__"])
    entry, action = header[name], rng.randrange(7)
    size = None
    if action == 0:
        entry["shape"] = [*entry["shape"], rng.choice((0, 1, 2, 10**12))]
    elif action == 1:
        entry["dtype"] = rng.choice(("F16", "I64", "BOOL", "F999"))
    elif action == 2:
        entry["data_offsets"] = [0, rng.choice((4, 10**15, -1))]
    elif action == 3:
        header[f"{name}x"] = header.pop(name)
    elif action == 4:
        del header[name]
    elif action == 5:
        header[name] = hostile_value(rng)
    else:
        size = rng.choice((0, 3, 10**6, 2**40, 2**64 - 1))
    _write(path, header, bytes(data), size)
    return f"{path.name}: the header of {name} is damaged ({action})"
