"""The checksums of a model folder: which of its files they cover, and what is damage and what is not.

`save_pretrained` writes them for all files that are in the folder then. An image processor and a tokenizer may be saved
into the folder later, as transformers' Trainer does; they are covered from the next `save_pretrained` on.
"""

import hashlib
import json
from pathlib import Path

from nas.common.boundary import read_json, reading
from nas.common.errors import ExportError, NasError
from nas.common.seals import SEALS, Changes, changed_files, digest_of, read_seals, seal

CONFIG = "config.json"
"""The file of an exported folder that a model is opened by."""
DESCRIPTION = "architecture.yaml"
"""The file of an exported folder with the architecture and further facts."""
MODEL_CARD = "README.md"

_PARTS = {
    DESCRIPTION: "description",
    CONFIG: "model",
    "model.safetensors.index.json": "model",
    "adapter_config.json": "model",
    "preprocessor_config.json": "image processor",
    "processor_config.json": "image processor",
    "tokenizer.json": "tokenizer",
    "tokenizer_config.json": "tokenizer",
    "special_tokens_map.json": "tokenizer",
    "added_tokens.json": "tokenizer",
    "vocab.json": "tokenizer",
    "vocab.txt": "tokenizer",
    "merges.txt": "tokenizer",
    "chat_template.json": "tokenizer",
    "chat_template.jinja": "tokenizer",
}
_PARTS_BY_SUFFIX = {".safetensors": "model", ".model": "tokenizer"}
_VOLATILE = {
    "tokenizer.json": ("truncation", "padding"),  # of the last call
    "tokenizer_config.json": ("is_local", "local_files_only"),  # how it was loaded
}


def seal_model(folder: Path) -> None:
    """Write the checksums of all files of a model folder that loading it depends on, and of the model card.

    Args:
        folder: The folder.

    Raises:
        OSError: If they cannot be written.
    """
    names = [path.name for path in folder.iterdir() if path.is_file()]
    seal(folder, [name for name in names if _part(name) or name == MODEL_CARD], meaning=_meaning)


def is_sealed(folder: Path) -> bool:
    """Return whether a model folder has checksums."""
    return (folder / SEALS).exists()


def model_changes(folder: Path) -> Changes:
    """Return the files of a model folder that were changed after it was saved; empty without checksums.

    Args:
        folder: The folder.

    Raises:
        ExportError: If the checksums are damaged, or a file cannot be read.
    """
    changes = changed_files(folder, counts=lambda name: _part(name) is not None, meaning=_meaning, error=ExportError)
    if not changes.added:
        return changes
    # A part without any sealed file was saved after the model.
    sealed = {"model", *(_part(name) for name in read_seals(folder, ExportError) or {})}
    return Changes(changes.changed, changes.missing, tuple(name for name in changes.added if _part(name) in sealed))


def folder_digest(folder: Path, *, is_checked: bool) -> str:
    """Return a digest of everything that a model folder computes with.

    Args:
        folder: The folder.
        is_checked: Whether its files were found to be those that its checksums describe, if it has some.

    Raises:
        ExportError: If a file cannot be read.
    """
    names = [SEALS] if is_checked and is_sealed(folder) else sorted(path.name for path in folder.iterdir())
    with reading(folder, expected="the files of an exported model", error=ExportError):
        digests = {name: digest_of(folder / name) for name in names if name == SEALS or _part(name)}
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def _part(name: str) -> str | None:
    """Return the part of the model that a file belongs to; None for files that loading does not read."""
    return _PARTS.get(name) or _PARTS_BY_SUFFIX.get(Path(name).suffix)


def _meaning(path: Path) -> bytes | None:
    """Return a tokenizer's file without what its use leaves in it."""
    if path.name not in _VOLATILE:
        return None
    try:
        values = read_json(path, expected="a JSON file")
        kept = {key: value for key, value in values.items() if key not in _VOLATILE[path.name]}
    except (NasError, AttributeError):  # damaged, or far too large: all bytes count
        return None
    return json.dumps(kept, sort_keys=True).encode()
