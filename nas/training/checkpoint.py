"""Files of trained weights (safetensors with a checksum) and of interrupted trainings."""

import contextlib
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from nas.common import torch_files
from nas.common.boundary import check_regular_file, reading
from nas.common.errors import StudyError
from nas.common.files import write_atomically
from nas.models.fusion.base import FusionModel
from nas.search.trial import Job, Result
from nas.training.trainer import Trainer

_METADATA_KEY = "facts"
_CHECKSUM_KEY = "crc32"  # safetensors has no checksum
_EXPECTED = "trained weights"
_REMEDY = "restore the file from a copy"


def save_weights(path: Path, model: FusionModel, **metadata: str) -> None:
    """Write the trained tensors of a model atomically.

    Args:
        path: Path of the file; see `save_tensors`.
        model: The model; its frozen encoders are not written.
        metadata: Strings to store with the tensors.
    """
    save_tensors(path, model.state_dict(), **metadata)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], **metadata: str) -> None:
    """Write tensors with their checksum atomically.

    Args:
        path: Path of the file; its folder is created, but none above it, for the run directory may have vanished.
        tensors: The tensors by name.
        metadata: Strings to store with the tensors.
    """
    path.parent.mkdir(exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    # A single entry: safetensors writes several in arbitrary order, and equal weights must give equal files.
    content = json.dumps({**metadata, _CHECKSUM_KEY: _checksum(tensors)}, sort_keys=True)
    write_atomically(path, safetensors.torch.save(tensors, metadata={_METADATA_KEY: content}))


def load_weights(path: Path, model: FusionModel, **expected: str) -> dict[str, str]:
    """Load the tensors that `save_weights` wrote into a model; return the metadata.

    Args:
        path: The file.
        model: The model.
        expected: Metadata that the file must have, for instance those of `training_facts`.

    Raises:
        StudyError: If the file is missing, damaged, or belongs to another architecture or training.
    """
    with _reading(path):
        tensors, metadata = load_tensors(path, **expected)
        model.load_state_dict(tensors)
    return metadata


def load_tensors(path: Path, **expected: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors that `save_tensors` wrote, and the metadata.

    Args:
        path: The file.
        expected: Metadata that the file must have, for instance those of `training_facts`.

    Raises:
        StudyError: If the file is missing, damaged, or belongs to another training.
    """
    with _reading(path):
        tensors = safetensors.torch.load_file(path)
        metadata = _read_metadata(path)
        if metadata.pop(_CHECKSUM_KEY, None) != _checksum(tensors):
            raise ValueError("the checksum does not match")
        for name, value in expected.items():
            if metadata.get(name) != value:
                raise ValueError(f"they belong to another training: {name} is {metadata.get(name)}, not {value}")
    return tensors, metadata


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn every failure to read a file of weights into one error; a pipe, which would block for ever, is refused."""
    error = _with_remedy(_REMEDY)
    check_regular_file(path, expected=_EXPECTED, error=error)
    with reading(path, expected=_EXPECTED, error=error, problem="cannot be loaded"):
        yield


def training_facts(training: Job | Result) -> dict[str, str]:
    """Return the metadata of the weights of a training, by which a swapped file is noticed.

    Args:
        training: The job or its result.
    """
    architecture = json.dumps(training.architecture.stated(), sort_keys=True)
    return {
        "training": training.key.name,
        "stage": training.stage,
        "architecture": architecture,
        "seed": str(training.seed),
    }


def weights_checksum(path: Path) -> str:
    """Return the checksum of the tensors that a file of `save_weights` states, without reading them.

    Args:
        path: The file.

    Raises:
        StudyError: If the file is damaged.
    """
    with _reading(path):
        return str(_read_metadata(path)[_CHECKSUM_KEY])


def _read_metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        metadata: dict[str, str] = json.loads((file.metadata() or {}).get(_METADATA_KEY, "{}"))
    return metadata


def _with_remedy(remedy: str) -> Callable[[str], StudyError]:
    return lambda message: StudyError(f"{message}; {remedy}")


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """Return the CRC-32 of the names and contents."""
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(tensors[name].cpu().numpy().tobytes(), zlib.crc32(name.encode(), value))
    return str(value)


class TrainingCheckpoint:
    """File with the weights, the optimizer state and the step of a training.

    Args:
        path: Path of the file.
        trainer: The trainer whose state is saved and restored.
        architectures_per_step: The number of architectures per step.
        seed: The seed of the training. The checkpoint of a training with another seed, or another number of
            architectures or steps, is rejected.
    """

    def __init__(self, path: Path, trainer: Trainer, architectures_per_step: int, seed: int) -> None:
        self._path = path
        self._trainer = trainer
        self._configuration = {
            "supernet.steps": trainer.step_count,
            "supernet.architectures_per_step": architectures_per_step,
            "seed": seed,
        }

    def save(self, step: int) -> None:
        """Replace the file with the current state.

        Args:
            step: The number of finished steps.

        Raises:
            TrainingError: If the loss of a step was not finite.
            OSError: If the file cannot be written; the previous one remains untouched.
        """
        self._trainer.losses.finish()
        torch_files.save(self._path, self._state(step))

    def restore(self) -> int:
        """Load the state from the file, if it exists; return the number of finished steps.

        Raises:
            StudyError: If the file is damaged or belongs to another configuration.
        """
        if not self._path.exists():
            return 0
        error = _with_remedy("delete it to train the supernet again")
        expected = "the checkpoint of a supernet"
        check_regular_file(self._path, expected=expected, error=error)
        with reading(self._path, expected=expected, error=error, problem="cannot read the checkpoint"):
            with zipfile.ZipFile(self._path) as archive:
                damaged = archive.testzip()  # torch writes checksums but does not verify them
            if damaged is not None:
                raise ValueError(f"its part {damaged} is damaged")
            return self._load(self._path)

    def to_bytes(self, step: int) -> bytes:
        """Return the content of the file that `save` would write.

        Args:
            step: The number of finished steps.
        """
        buffer = io.BytesIO()
        torch.save(self._state(step), buffer)
        return buffer.getvalue()

    def load_bytes(self, content: bytes) -> int:
        """Load the state from the bytes of another process; return the number of finished steps.

        Raises:
            StudyError: If they belong to another configuration.
        """
        return self._load(io.BytesIO(content))

    def _state(self, step: int) -> dict[str, Any]:
        model, optimizer = self._trainer.model.state_dict(), self._trainer.optimizer.state_dict()
        return {"model": model, "optimizer": optimizer, "step": step, "configuration": self._configuration}

    def _load(self, file: Path | io.BytesIO) -> int:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        if state["configuration"] != self._configuration:
            raise StudyError(
                f"{self._path}: the checkpoint belongs to another configuration; expected "
                f"{_format_configuration(self._configuration)}, got {_format_configuration(state['configuration'])}; "
                "delete it to train the supernet again"
            )
        self._trainer.model.load_state_dict(state["model"])
        self._trainer.optimizer.load_state_dict(state["optimizer"])
        return int(state["step"])


def _format_configuration(configuration: Mapping[str, int]) -> str:
    return ", ".join(f"{key} {value}" for key, value in configuration.items())
