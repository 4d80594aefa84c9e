"""Trained weights as safetensors files."""

from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open

from nas.errors import StudyError
from nas.files import write_atomically
from nas.fusion import PMF


def save_weights(path: Path, model: PMF, **metadata: str) -> None:
    """Write a model's trained tensors, atomically.

    Args:
        path: Its folder is made if need be.
        model: The frozen encoders are not written.
        metadata: Texts to keep beside them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    write_atomically(path, safetensors.torch.save(tensors, metadata=metadata))


def load_weights(path: Path, model: PMF) -> dict[str, str]:
    """Fill a model with what `save_weights` wrote; returns the metadata.

    Raises:
        StudyError: If the file is missing, damaged, or of another architecture.
    """
    try:
        model.load_state_dict(safetensors.torch.load_file(path))
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise StudyError(f"{path}: these weights cannot be loaded: {str(error).splitlines()[0]}") from error
