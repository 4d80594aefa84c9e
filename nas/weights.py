"""Trained weights as safetensors files, with a checksum, since the format has none."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nas.common.errors import StudyError
from nas.common.files import write_atomically
from nas.models.fusion.base import FusionModel

_FACTS = "facts"
_CHECKSUM = "crc32"


def save_weights(path: Path, model: FusionModel, **metadata: str) -> None:
    """Write a model's trained tensors, atomically.

    Args:
        path: Its folder is made if need be.
        model: The frozen encoders are not written.
        metadata: Texts to keep beside them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    # One text, since safetensors writes several in any order, and equal weights are to make equal files.
    facts = json.dumps({**metadata, _CHECKSUM: _checksum(tensors)}, sort_keys=True)
    write_atomically(path, safetensors.torch.save(tensors, metadata={_FACTS: facts}))


def load_weights(path: Path, model: FusionModel) -> dict[str, str]:
    """Fill a model with what `save_weights` wrote; returns the metadata.

    Raises:
        StudyError: If the file is missing, damaged, or of another architecture.
    """
    try:
        tensors = safetensors.torch.load_file(path)
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = json.loads((file.metadata() or {}).get(_FACTS, "{}"))
        if metadata.pop(_CHECKSUM, None) != _checksum(tensors):
            raise ValueError("they are not what was written there")
        model.load_state_dict(tensors)
        return metadata
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise StudyError(f"{path}: these weights cannot be loaded: {reason}; put back a copy of the file") from error


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 of names and content."""
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(tensors[name].cpu().numpy().tobytes(), zlib.crc32(name.encode(), value))
    return str(value)
