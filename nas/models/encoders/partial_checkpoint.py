"""The last layers of an encoder in a separate file, which all workers of a machine map into memory and share.

A worker that reads features needs no layer below the first one that it computes. The system holds mapped read-only
pages once, whatever the number of processes that read them, and they do not count as private memory of a worker.
"""

import pickle
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from nas.common import torch_files
from nas.common.devices import product_dtype
from nas.common.errors import EncoderError
from nas.common.precision import Precision
from nas.models.encoders.base import Encoder
from nas.models.encoders.checkpoints import build_encoder
from nas.models.encoders.held_weights import product_weights
from nas.search.space import RAW, WHOLE


def tail_weights(encoder: Encoder, start: int, precision: Precision = "float32") -> dict[str, Tensor]:
    """Return the weights and buffers of an encoder without those of the lowest layers.

    Args:
        encoder: The encoder.
        start: The first layer to include; the embedding is left out, except for its norm, which tokens of other sources
            pass before the first layer. `RAW` includes everything, for a family that trains the encoder, so that the
            weights keep their dtype; `WHOLE` everything, for steps that compute it.
        precision: The precision of products, in which the weights that they read are held.

    Returns:
        The tensors by their name in the state of the model.
    """
    embedding = encoder.embedding if start >= 0 else ()
    left_out = [*embedding, *(layer.module for layer in encoder.layers[: max(start, 0)])]
    skipped = {id(tensor) for module in left_out for tensor in [*module.parameters(), *module.buffers()]}
    if start == 0 and encoder.embedding_norm is not None:
        skipped -= {id(tensor) for tensor in encoder.embedding_norm.parameters()}
    state: dict[str, Tensor] = encoder.model.state_dict(keep_vars=True)
    if start == WHOLE:
        state |= dict(encoder.model.named_buffers())  # also those that are no part of the state, such as positions
    kept = {name: tensor.detach() for name, tensor in state.items() if id(tensor) not in skipped}
    if start != RAW and precision != "float32":
        held = {name for *_, name in product_weights(encoder.model)}
        kept = {name: tensor.to(product_dtype(precision)) if name in held else tensor for name, tensor in kept.items()}
    return kept


def save_tail(encoder: Encoder, start: int, path: Path, precision: Precision = "float32") -> None:
    """Write the tensors of `tail_weights` to a file.

    Args:
        encoder: The encoder.
        start: The first layer to include, `RAW` or `WHOLE`; see `tail_weights`.
        path: The file to write.
        precision: The precision of products; see `tail_weights`.

    Raises:
        OSError: If the file cannot be written.
    """
    # Not safetensors: torch aligns every tensor to 64 bytes, without which products with mapped weights take twice as
    # long. Clones, because saving a view would save all of its storage.
    tensors = {name: tensor.clone() for name, tensor in tail_weights(encoder, start, precision).items()}
    torch_files.save(path, tensors)


_CPU = torch.device("cpu")


def load_tail(config: PreTrainedConfig, start: int, path: Path, device: torch.device = _CPU) -> Encoder:
    """Build an encoder whose layers from `start` on are mapped from a file; those below have no weights.

    Args:
        config: The configuration of the encoder.
        start: The first layer, as passed to `save_tail`.
        path: The file that `save_tail` wrote.
        device: The device of the weights; on the CPU they stay mapped.

    Raises:
        EncoderError: If the file is missing, damaged, or belongs to another encoder or start.
    """
    with torch.device("meta"):
        encoder = build_encoder(config)
    try:
        tensors: dict[str, Tensor] = torch.load(path, mmap=True, weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise EncoderError(f"{path}: cannot read the frozen weights: {error}") from error
    expected = tail_weights(encoder, start)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if shapes != {name: tuple(tensor.shape) for name, tensor in expected.items()}:
        raise EncoderError(
            f"{path}: wrong frozen weights; expected those of layers {start} and up of a {config.model_type} encoder"
        )
    weights = {name: tensor.to(device) for name, tensor in tensors.items()}
    stateless = weights.keys() - encoder.model.state_dict().keys()
    encoder.model.load_state_dict(weights, strict=False, assign=True)
    for name in stateless:
        place, _, buffer = name.rpartition(".")
        encoder.model.get_submodule(place).register_buffer(buffer, weights[name], persistent=False)
    return encoder
