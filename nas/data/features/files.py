"""Files of a feature store: their contents, and checks for missing, truncated or altered files."""

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from nas.common.errors import DataError
from nas.common.files import write_atomically
from nas.data.features.plan import FeaturePlan

FORMAT = 5
CONTENTS = "features.json"
_VERIFIED = "verified.json"


@dataclass(frozen=True)
class FileFacts:
    """Size and SHA-256 digest of a file."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class StoreContents:
    """The contents of a store, as `features.json` lists them.

    Args:
        tier: One of `nas.data.features.plan.TIERS`.
        dtype: Storage type of tokens and attended rows: float16, float32, or int8 (`nas.data.features.eight_bits`).
        image_token_count: Number of tokens of an image, S.
        token_layers: Layers whose tokens are stored, by modality; -1 stands for pixel values or token ids.
        attention_layers: Layers whose data attention is stored, by modality.
        views: Number of views of every image, by split.
        class_names: Class names in the order of the labels.
        files: Every array, by its path within the store.
    """

    tier: str
    dtype: str
    image_token_count: int
    token_layers: Mapping[str, tuple[int, ...]]
    attention_layers: Mapping[str, tuple[int, ...]]
    views: Mapping[str, int]
    class_names: tuple[str, ...]
    files: Mapping[str, FileFacts]


def seal_store(
    directory: Path,
    plan: FeaturePlan,
    *,
    image_token_count: int,
    views: Mapping[str, int],
    class_names: tuple[str, ...],
) -> None:
    """Complete a store: write its contents and the checksums of its arrays to `features.json`.

    Args:
        directory: The folder, with all arrays written.
        plan: The plan that was built.
        image_token_count: Number of tokens of an image, S.
        views: Number of views of every image, by split.
        class_names: Class names in the order of the labels.

    Raises:
        OSError: If a file cannot be read or written.
    """
    # Taken before the files are hashed, so that a change meanwhile is noticed.
    stamps = {array.name: _stamp(directory / array.name) for array in plan.arrays}
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        digests = list(pool.map(lambda name: file_sha256(directory / name), stamps))
    files = {name: FileFacts(stamp[0], digest) for (name, stamp), digest in zip(stamps.items(), digests, strict=True)}
    contents = StoreContents(
        tier=plan.tier,
        dtype=plan.dtype,
        image_token_count=image_token_count,
        token_layers={part.name: part.token_layers(plan.tier) for part in plan.modalities},
        attention_layers={part.name: part.attention_layers(plan.tier) for part in plan.modalities},
        views=views,
        class_names=class_names,
        files=files,
    )
    values = json.loads(json.dumps({"format": FORMAT, **asdict(contents)}))  # with the keys as JSON returns them
    values["checksum"] = _checksum(values)
    _write_verified(directory, stamps)
    write_atomically(directory / CONTENTS, json.dumps(values, indent=1).encode())


def read_contents(directory: Path) -> StoreContents:
    """Return the contents of a store, after checking the sizes of all files; the arrays are not read.

    Args:
        directory: The folder of the store.

    Raises:
        DataError: If the folder is not a complete store, or was written by another version.
    """
    try:
        content = (directory / CONTENTS).read_text(encoding="utf-8")
        try:
            values = json.loads(content)
        except ValueError as error:
            raise ValueError(f"{CONTENTS} was altered: {error}") from error
        if values["format"] != FORMAT:
            raise ValueError(f"unsupported format; expected {FORMAT}, got {values['format']}")
        if values.pop("checksum") != _checksum(values):
            raise ValueError(f"{CONTENTS} was altered")
        contents = StoreContents(
            tier=values["tier"],
            dtype=values["dtype"],
            image_token_count=values["image_token_count"],
            token_layers={name: tuple(layers) for name, layers in values["token_layers"].items()},
            attention_layers={name: tuple(layers) for name, layers in values["attention_layers"].items()},
            views=values["views"],
            class_names=tuple(values["class_names"]),
            files={name: FileFacts(**facts) for name, facts in values["files"].items()},
        )
        for name, facts in contents.files.items():
            size_bytes = (directory / name).stat().st_size
            if size_bytes != facts.size_bytes:
                raise ValueError(f"{name} has the wrong size; expected {facts.size_bytes} bytes, got {size_bytes}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{directory}: not a usable feature store ({error}); delete it to rebuild it") from error
    return contents


def find_damage(directory: Path, *, verify: bool = False) -> str | None:
    """Return what is wrong with a store, or None if it is intact.

    Hashing a large store takes minutes, so a file is hashed again only if its size or modification time has changed
    since it was last verified. Bytes that change without a write, as on a failing disk, are therefore not noticed.

    Args:
        directory: The folder of the store.
        verify: Whether to hash all files, whatever their times.
    """
    try:
        contents = read_contents(directory)
        verified = {} if verify else _read_verified(directory)
        stamps = {}
        for name, facts in contents.files.items():
            path = directory / name
            stamps[name] = _stamp(path)
            if stamps[name] != verified.get(name) and file_sha256(path) != facts.sha256:
                return f"the content of {name} was altered"
        if stamps != verified:
            _write_verified(directory, stamps)
    except (DataError, OSError) as error:
        return str(error)
    return None


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _read_verified(directory: Path) -> dict[str, Any]:
    try:
        values = json.loads((directory / _VERIFIED).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}  # then every file is hashed
    return values if isinstance(values, dict) else {}


def _write_verified(directory: Path, stamps: Mapping[str, list[int]]) -> None:
    try:
        write_atomically(directory / _VERIFIED, json.dumps(stamps).encode())
    except OSError:
        return  # a read-only store or a full disk: the files are hashed again next time


def file_sha256(path: Path) -> str:
    """Return the SHA-256 digest of a file, in hexadecimal.

    Args:
        path: The file.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checksum(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
