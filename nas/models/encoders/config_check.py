"""Check the configuration of an encoder, and that its weights are all there and finite."""

import math
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.initialization import no_init_weights

from nas.common.boundary import reading, shown
from nas.common.errors import EncoderError
from nas.models.encoders.contrastive import check_head
from nas.models.encoders.folder_check import ErrorType, StoredWeights
from nas.models.encoders.frozen_ops import ACTIVATIONS
from nas.models.encoders.registry import EncoderFamily, encoder_family

_MAX_LAYERS = 1000
_MAX_WIDTH = 2**20
_MAX_ROWS = 2**24
_MAX_SIDE = 4096
_BOUNDS = {
    "num_hidden_layers": _MAX_LAYERS,
    "n_layers": _MAX_LAYERS,
    "num_attention_heads": _MAX_LAYERS,
    "n_heads": _MAX_LAYERS,
    "hidden_size": _MAX_WIDTH,
    "dim": _MAX_WIDTH,
    "embedding_size": _MAX_WIDTH,
    "intermediate_size": _MAX_WIDTH,
    "hidden_dim": _MAX_WIDTH,
    "vocab_size": _MAX_ROWS,
    "type_vocab_size": _MAX_ROWS,
    "max_position_embeddings": _MAX_ROWS,
    "num_channels": 3,
    "image_size": _MAX_SIDE,
    "patch_size": _MAX_SIDE,
}
_SLACK = 1_000_000


def check_encoder_config(
    config: PreTrainedConfig, family: EncoderFamily, where: str, error: ErrorType = EncoderError
) -> None:
    """Check the sizes, the other numbers and the activation of an encoder's configuration.

    Args:
        config: The configuration.
        family: The family of its `model_type`.
        where: The file, and the key in it if the configuration is a part of another, for messages.
        error: The type of the error.

    Raises:
        NasError: If a value is not allowed; names the file, the key and the value.
    """
    for key, value in config.to_dict().items():
        bound = _BOUNDS.get(key)
        sides = value if isinstance(value, list | tuple) else [value]
        if bound is not None and not all(type(side) is int and 0 < side <= bound for side in sides):
            raise error(f"{where}: {key}: not allowed; expected 1 to {bound:,}, got {shown(value)}")
        if isinstance(value, float) and not 0 <= value < math.inf:
            raise error(f"{where}: {key}: not allowed; expected a finite number of at least 0, got {shown(value)}")
    check_head(config, where, error)
    activation = getattr(config, family.activation)
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise error(
            f"{where}: {family.activation}: unsupported activation; expected {', '.join(sorted(ACTIVATIONS))}, got "
            f"{shown(activation)}; to add one, extend ACTIVATIONS in nas/models/encoders/frozen_ops.py"
        )


def check_weight_count(
    config: PreTrainedConfig, stored: StoredWeights, where: str, error: ErrorType = EncoderError
) -> None:
    """Check, before memory is taken for it, that a model can be built and is not much larger than its weights.

    Args:
        config: The configuration of an encoder.
        stored: The weights of its folder.
        where: The file of the configuration, for messages.
        error: The type of the error.

    Raises:
        NasError: If no model can be built of the configuration, or it is much larger.
    """
    family = encoder_family(config.model_type)
    with (
        reading(where, expected="the configuration of an encoder", error=error, problem="no model can be built of it"),
        torch.device("meta"),
        no_init_weights(),
    ):
        model: Any = family.load_model_class()(config, **family.options)
    count = sum(parameter.numel() for parameter in model.parameters())
    if stored.numbers is not None and count > 2 * stored.numbers + _SLACK:
        raise error(
            f"{where}: describes a model of {count:,} weights; expected the configuration of {stored.files[0].name}, "
            f"which holds {stored.numbers:,}"
        )


def check_weights(model: nn.Module, where: str, error: ErrorType = EncoderError) -> None:
    """Check that all weights are finite.

    Args:
        model: The model, on any device but meta.
        where: The file of the weights, for messages.
        error: The type of the error.

    Raises:
        NasError: If one is not; names it.
    """
    for name, tensor in model.state_dict().items():
        # The sum is much faster than a look at each; it is not finite if one of them is not.
        if tensor.is_floating_point() and not tensor.sum().isfinite() and not bool(tensor.isfinite().all()):
            found = tensor[~tensor.isfinite()][0].item()
            raise error(f"{where}: weight {name} is not finite; expected finite numbers only, got {found}")
