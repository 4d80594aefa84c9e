"""Write a trained model as a checkpoint folder of transformers, with its model card and checksum."""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import CLIPModel

from benchmarks.suite.small_clip.sources import SOURCES
from nas.common.errors import DataError
from nas.common.files import write_atomically

WEIGHTS, SUMS = "model.safetensors", "SHA256SUMS"
MAX_BYTES = 30_000_000


def export(model: CLIPModel, parts: Path, output: Path, card: str) -> str:
    """Write weights in half precision, tokenizer, image processor, card and checksum; the weights come last.

    Args:
        model: The model; it is not changed.
        parts: The folder with tokenizer and image processor.
        output: The folder of the checkpoint.
        card: The model card.

    Returns:
        The SHA-256 of the weights.

    Raises:
        DataError: If the folder is too large.
    """
    half = CLIPModel(model.config)
    half.load_state_dict(model.state_dict())
    new = output.with_name(output.name + ".part")
    shutil.rmtree(new, ignore_errors=True)
    half.half().save_pretrained(new)
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        shutil.copyfile(parts / name, new / name)
    digest = hashlib.sha256((new / WEIGHTS).read_bytes()).hexdigest()
    (new / SUMS).write_text(f"{digest}  {WEIGHTS}\n", encoding="utf-8")
    (new / "README.md").write_text(card, encoding="utf-8")
    size = sum(path.stat().st_size for path in new.iterdir())
    if size > MAX_BYTES:
        raise DataError(f"{new}: {size:,} bytes; expected at most {MAX_BYTES:,}")
    output.mkdir(parents=True, exist_ok=True)
    for path in sorted(new.iterdir(), key=lambda path: path.name == WEIGHTS):
        path.replace(output / path.name)
    new.rmdir()
    return digest


def add_figures(output: Path, lines: Sequence[str]) -> None:
    """Write the figures of the check into the model card, in place of older ones."""
    card = output / "README.md"
    before = card.read_text(encoding="utf-8").split("\n## Measured\n")[0]
    listed = "".join(f"- {line}\n" for line in lines)
    head = "Zero-shot on the validation drawings of the demonstration, by the names of its 15 classes:"
    write_atomically(card, f"{before}\n## Measured\n\n{head}\n\n{listed}".encode())


def model_card(counts: Mapping[str, Any], recipe: Mapping[str, Any], steps: int, seconds: float) -> str:
    """Return the model card.

    Args:
        counts: The counts of the pairs (`pairs.Material`).
        recipe: The settings.
        steps: The number of steps done.
        seconds: The time that they took.
    """
    kept, left_out = counts.get("kept", {}), counts.get("near copies left out", {})
    rows = "".join(
        f"| {source.name} | {packages(source.packages)} | {kept.get(source.name, 0):,} | "
        f"{left_out.get(source.name, 0):,} | {source.licence} |\n"
        for source in SOURCES
    )
    compared = ", ".join(
        f"{name} ({'not compared, as its source was not given' if count is None else f'{count:,} pictures'})"
        for name, count in counts.get("held out", {}).items()
    )
    settings = ", ".join(f"{name} {value}" for name, value in recipe.items())
    return _CARD.format(rows=rows, compared=compared, settings=settings, steps=steps, minutes=seconds / 60)


def packages(of_source: Sequence[Any]) -> str:
    """Return names and versions of packages."""
    return ", ".join(f"`{package.name}` {package.version}" for package in of_source)


_CARD = """---
license: apache-2.0
library_name: transformers
tags:
- clip
- clip-art
---

# A small CLIP for clip art

A `CLIPModel` for pictures of 64x64 pixels and short English texts, made to try prompted dual encoders where no
checkpoint can be downloaded: 12 image layers (192 wide, copied from this repository's `vit-tiny-clipart`, then
trained), 4 text layers (256 wide, new), embeddings of 192, weights in half precision. It loads with
`CLIPModel.from_pretrained`, `AutoTokenizer` and `AutoImageProcessor`. Every text ends with one end-of-text token,
`[SEP]`, at which CLIP reads it.

## How it came to be

`python -m benchmarks.suite.small_clip.make --output DIR` made it: {steps} steps in {minutes:.0f} minutes. Settings:
{settings}.
Token embeddings started as principal components of those of all-MiniLM-L6-v2 (Apache 2.0), whose vocabulary is used as
far as it is ASCII.

## Pictures and texts

Titles, names and keywords are those that the packages have; names of folders and classes were not used, but a keyword
may happen to be the name of a class.

| source | packages | pictures | near copies left out | licence |
| --- | --- | --- | --- | --- |
{rows}
Left out is whatever `demo/data/held_out.txt` lists (validation and test of the demonstration, and all related
drawings), and every picture that is a near copy of a validation or test picture of a task of the suite: {compared}.

No picture and no text is part of this folder. The weights are offered under the Apache License 2.0.

## Limits

It knows clip art and icons on white, and little else. The classes of the demonstration occur in its training as
keywords, so novel classes of a base-to-novel protocol are not new to it: such a result checks the mechanism only.
"""
