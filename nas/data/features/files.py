"""The files of a feature store: what they hold, whether they are whole, and whether they are still what was written."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nas.common.errors import DataError
from nas.common.files import write_atomically
from nas.data.features.plan import FeaturePlan

FORMAT = 3
CONTENTS = "features.json"
_VERIFIED = "verified.json"


@dataclass(frozen=True)
class FileFacts:
    """Size and SHA-256 of a file."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Contents:
    """What `features.json` says of a store.

    Args:
        tier: One of `nas.data.features.plan.TIERS`.
        dtype: Of tokens and attended rows: float16 or float32.
        image_token_count: S.
        token_layers: Modality → layers whose input rows are here, -1 for pixel values or token ids.
        attention_layers: Modality → layers whose data attention is here.
        views: Split → views of each of its images.
        class_names: In the order of the labels.
        files: Every array, by its path in the store.
    """

    tier: str
    dtype: str
    image_token_count: int
    token_layers: Mapping[str, tuple[int, ...]]
    attention_layers: Mapping[str, tuple[int, ...]]
    views: Mapping[str, int]
    class_names: tuple[str, ...]
    files: Mapping[str, FileFacts]


def complete(
    directory: Path,
    plan: FeaturePlan,
    image_token_count: int,
    views: Mapping[str, int],
    class_names: tuple[str, ...],
) -> None:
    """Write the checksums of a folder's arrays into `features.json`, without which it is no store.

    Raises:
        OSError: If a file cannot be read or written.
    """
    # Before the files are hashed, so that what changes them meanwhile is noticed.
    stamps = {array.name: _stamp(directory / array.name) for array in plan.arrays}
    files = {name: FileFacts(stamp[0], _sha256(directory / name)) for name, stamp in stamps.items()}
    contents = Contents(
        tier=plan.tier,
        dtype=plan.dtype,
        image_token_count=image_token_count,
        token_layers={part.name: part.token_layers(plan.tier) for part in plan.modalities},
        attention_layers={part.name: part.attention_layers(plan.tier) for part in plan.modalities},
        views=views,
        class_names=class_names,
        files=files,
    )
    values = json.loads(json.dumps({"format": FORMAT, **asdict(contents)}))  # with keys as they are read back
    values["checksum"] = _checksum(values)
    _write_verified(directory, stamps)
    write_atomically(directory / CONTENTS, json.dumps(values, indent=1).encode())


def read_contents(directory: Path) -> Contents:
    """What a store holds; every file is there in its full size, its content is not read.

    Raises:
        DataError: If the folder is no complete store, or was made by another version.
    """
    try:
        content = (directory / CONTENTS).read_text(encoding="utf-8")
        try:
            values = json.loads(content)
        except ValueError as error:
            raise ValueError(f"{CONTENTS} is not what was written there: {error}") from error
        if values["format"] != FORMAT:
            raise ValueError(f"its format is {values['format']}, this version reads {FORMAT}")
        if values.pop("checksum") != _checksum(values):
            raise ValueError(f"{CONTENTS} is not what was written there")
        contents = Contents(
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
                raise ValueError(f"{name} has {size_bytes} bytes in place of {facts.size_bytes}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{directory}: is no usable folder of features: {error}; delete it to have it rebuilt"
        ) from error
    return contents


def damage(directory: Path) -> str | None:
    """What is wrong with a store, or None.

    LayerInput a large store whole takes minutes, so a file is hashed again only if its size or time of change is not
    that of the last time it was found right. What alters bytes without a write (a failing disk) is found only by that.

    Args:
        directory: Of the store.
    """
    try:
        contents = read_contents(directory)
        verified = _read_verified(directory)
        stamps = {}
        for name, facts in contents.files.items():
            path = directory / name
            stamps[name] = _stamp(path)
            if stamps[name] != verified.get(name) and _sha256(path) != facts.sha256:
                return f"the content of {name} is not what was written there"
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
    except (OSError, ValueError):
        return {}  # everything is hashed then
    return values if isinstance(values, dict) else {}


def _write_verified(directory: Path, stamps: Mapping[str, list[int]]) -> None:
    try:
        write_atomically(directory / _VERIFIED, json.dumps(stamps).encode())
    except OSError:
        return  # a store that is read-only here, or a full disk: it is hashed again the next time


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checksum(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
