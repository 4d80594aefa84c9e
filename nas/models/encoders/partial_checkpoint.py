"""The last layers of an encoder in a file of their own, which all workers of a machine map into memory and share.

A worker that reads features needs no layer below the first that is computed. Mapped read-only pages are held once by
the system, however many processes read them, and count as no worker's private memory.
"""

import pickle
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from nas.common import torch_files
from nas.common.errors import EncoderError
from nas.models.encoders.base import Encoder
from nas.models.encoders.checkpoints import build_encoder


def tail_weights(encoder: Encoder, start: int) -> dict[str, Tensor]:
    """Weights and buffers, by name, but for those of the embedding and of the layers below `start`; all from -1 on."""
    embedding = encoder.embedding if start >= 0 else ()
    left_out = [*embedding, *(layer.module for layer in encoder.layers[: max(start, 0)])]
    skipped = {id(tensor) for module in left_out for tensor in [*module.parameters(), *module.buffers()]}
    state: dict[str, Tensor] = encoder.model.state_dict(keep_vars=True)
    return {name: tensor.detach() for name, tensor in state.items() if id(tensor) not in skipped}


def save_tail(encoder: Encoder, start: int, path: Path) -> None:
    """Write the layers from `start` on and what follows them; with -1 the embedding as well.

    Raises:
        OSError: If the file cannot be written.
    """
    # Not safetensors: in a file of torch's every tensor starts at a multiple of 64 bytes, without which products with
    # mapped weights take twice as long. Clones, because a view would bring all of what it looks at.
    tensors = {name: tensor.clone() for name, tensor in tail_weights(encoder, start).items()}
    torch_files.save(path, tensors)


_CPU = torch.device("cpu")


def load_tail(config: PreTrainedConfig, start: int, path: Path, device: torch.device = _CPU) -> Encoder:
    """An encoder whose layers from `start` on are mapped from a file; what comes before is not there.

    Args:
        config: The encoder's configuration.
        start: As it was saved.
        path: What `save_tail` wrote.
        device: Where its weights are to be; on the CPU they stay mapped.

    Raises:
        EncoderError: If the file is missing, damaged, or of another encoder or start.
    """
    with torch.device("meta"):
        encoder = build_encoder(config)
    try:
        tensors: dict[str, Tensor] = torch.load(path, mmap=True, weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise EncoderError(f"{path}: the frozen weights cannot be read: {error}") from error
    expected = tail_weights(encoder, start)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if shapes != {name: tuple(tensor.shape) for name, tensor in expected.items()}:
        raise EncoderError(f"{path}: holds other weights than the layers from {start} on of a {config.model_type} need")
    weights = {name: tensor.to(device) for name, tensor in tensors.items()}
    encoder.model.load_state_dict(weights, strict=False, assign=True)
    return encoder
