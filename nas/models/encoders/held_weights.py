"""Frozen weights in the precision in which they are multiplied: autocast would cast each of them in every step.

Only the weights and biases of matrix products are held so. Norms, scales and embeddings are small, and autocast
computes with them in float32.
"""

from collections.abc import Iterator

import torch
from torch import nn

from nas.models.encoders.base import Encoder


def product_weights(model: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """Yield the weights and biases of the matrix products of a model.

    Each is a module, the name of the parameter in it, and its name in the state of the model.
    """
    for prefix, module in model.named_modules():
        # The input projections of torch's attention are its own parameters, not those of a linear layer.
        if isinstance(module, nn.Linear | nn.MultiheadAttention):
            for name, _ in module.named_parameters(recurse=False):
                yield module, name, f"{prefix}.{name}"


def hold_products_in(encoder: Encoder, dtype: torch.dtype) -> None:
    """Convert the weights of the matrix products of a frozen encoder, which then computes under autocast only.

    Args:
        encoder: The encoder.
        dtype: The dtype of autocast.
    """
    for module, name, _ in list(product_weights(encoder.model)):
        weight: nn.Parameter = getattr(module, name)
        setattr(module, name, nn.Parameter(weight.detach().to(dtype), requires_grad=False))
