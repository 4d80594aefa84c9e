"""Keep the frozen encoders of the exported models of a run once on disk, under a name in each model folder.

The weights of such a folder are in two files, the encoders in the first. Equal files are hard links to one, where the
file system has them, so that every folder is complete: it can be used, copied and deleted by itself. Neither this
program nor safetensors writes into a file that exists; both put a new one in its place, so that a link never changes.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from safetensors import safe_open
from safetensors.torch import save_file

from nas.models.encoders.folder_check import SAFE_INDEX, SAFE_WEIGHTS

ENCODERS, TRAINED = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
"""The files of the weights of the encoders and of everything else, by the names that transformers gives to parts."""

_PREFIXES = ("image_encoder.", "text_encoder.")
_BLOCK_BYTES = 2**20


def share_encoders(folder: Path, others: Sequence[Path]) -> None:
    """Move the encoders of a new model folder to a file of their own, which is linked to an equal one of other folders.

    A model that keeps no frozen encoder, since it trains a copy of each, stays as it is.

    Args:
        folder: The folder, whose weights are in one file; it is in use nowhere yet.
        others: Other model folders, on the same file system or not; those without encoders are passed over.

    Raises:
        OSError: If a file cannot be read or written.
    """
    if not _divide(folder):
        return
    path = folder / ENCODERS
    for other in others:
        known = other / ENCODERS
        if known.is_file() and not known.is_symlink() and _are_equal(path, known) and _link(known, path):
            return


def copy_weights(source: Path, target: Path) -> None:
    """Give a file of weights a second name, or copy it where the file system has no hard links.

    Args:
        source: The file.
        target: The new name, which does not exist.

    Raises:
        OSError: If it cannot be copied.
    """
    if not _link(source, target):
        shutil.copyfile(source, target)


def _divide(folder: Path) -> bool:
    """Divide the weights into two files with an index; return whether both have some."""
    path = folder / SAFE_WEIGHTS
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (the object is no mapping)
    parts = {
        ENCODERS: {name: tensor for name, tensor in tensors.items() if name.startswith(_PREFIXES)},
        TRAINED: {name: tensor for name, tensor in tensors.items() if not name.startswith(_PREFIXES)},
    }
    if not all(parts.values()):
        return False
    for name, part in parts.items():
        save_file(part, folder / name, metadata=metadata)
        (folder / name).chmod(path.stat().st_mode)
    index = {
        "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())},
        "weight_map": {name: file for file, part in parts.items() for name in sorted(part)},
    }
    (folder / SAFE_INDEX).write_text(json.dumps(index, indent=2) + "\n")
    path.unlink()
    return True


def _link(source: Path, target: Path) -> bool:
    """Make a name a hard link to a file; return whether the file system allows it."""
    temporary = target.with_name(f"{target.name}.link")
    try:
        os.link(source, temporary)
    except OSError:  # of another device, with too many links, or of a file system without them: a copy does as well
        return False
    try:
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    return True


def _are_equal(one: Path, other: Path) -> bool:
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as first, other.open("rb") as second:
        return all(block == second.read(_BLOCK_BYTES) for block in _blocks(first))


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(_BLOCK_BYTES):
        yield block
