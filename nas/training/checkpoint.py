"""Trained weights as safetensors files, with a checksum, since the format has none."""

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nas.common import torch_files
from nas.common.errors import StudyError
from nas.common.files import write_atomically
from nas.models.fusion.base import FusionModel
from nas.training.trainer import Trainer

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


class TrainingCheckpoints:
    """Weights, optimiser state and step of a training, as a file and back.

    Args:
        path: The file.
        trainer: Whose state it is.
        architectures_per_step: The file of a training with another number, or with other steps, is refused.
    """

    def __init__(self, path: Path, trainer: Trainer, architectures_per_step: int) -> None:
        self._path = path
        self._trainer = trainer
        self._configuration = {"steps": trainer.step_count, "architectures_per_step": architectures_per_step}

    def _state(self, step: int) -> dict[str, Any]:
        model, optimizer = self._trainer.model.state_dict(), self._trainer.optimizer.state_dict()
        return {"model": model, "optimizer": optimizer, "step": step, "configuration": self._configuration}

    def content(self, step: int) -> bytes:
        """The state now, after so many steps."""
        buffer = io.BytesIO()
        torch.save(self._state(step), buffer)
        return buffer.getvalue()

    def take(self, content: bytes) -> int:
        """Put a state in the place of the trainer's; returns the steps done.

        Raises:
            StudyError: If it is of another configuration.
        """
        return self._take(io.BytesIO(content))

    def _take(self, file: Path | io.BytesIO) -> int:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        if state["configuration"] != self._configuration:
            there, here = (
                ", ".join(f"supernet.{key} {value}" for key, value in configuration.items())
                for configuration in (state["configuration"], self._configuration)
            )
            raise StudyError(
                f"{self._path}: this checkpoint was made with {there}; expected {here}; delete it to train the "
                "supernet anew"
            )
        self._trainer.model.load_state_dict(state["model"])
        self._trainer.optimizer.load_state_dict(state["optimizer"])
        return int(state["step"])

    def save(self, step: int) -> None:
        """Replace the file.

        Raises:
            OSError: If it cannot be written; the old one is then untouched.
        """
        torch_files.save(self._path, self._state(step))

    def restore(self) -> int:
        """Go on from the file if there is one; returns the steps done.

        Raises:
            StudyError: If the file is damaged or of another configuration.
        """
        try:
            with zipfile.ZipFile(self._path) as archive:
                damaged = archive.testzip()  # torch writes checksums but does not compare them
            if damaged is not None:
                raise ValueError(f"{damaged} in it is damaged")
            return self._take(self._path)
        except FileNotFoundError:
            return 0
        except StudyError:
            raise
        except Exception as error:  # a damaged file fails in many ways
            raise StudyError(
                f"{self._path}: this checkpoint cannot be read ({error}); delete it to train the supernet anew"
            ) from error
