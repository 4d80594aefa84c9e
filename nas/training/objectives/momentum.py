"""The momentum model: a moving average of the trained weights, and the model that has it in place of them.

Source: He et al., "Momentum contrast", CVPR 2020, equation 2, as used by ALBEF (section 3.4).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn


def average_of(module: nn.Module) -> dict[str, Tensor]:
    """Return a moving average that starts at the present weights: a copy of each parameter by its name.

    Args:
        module: The module that is trained.
    """
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


@torch.no_grad()
def update_average(average: Mapping[str, Tensor], module: nn.Module, momentum: float) -> None:
    """Replace the average by momentum · average + (1 − momentum) · weights, in place.

    Args:
        average: The moving average, by the names of the parameters.
        module: The module that is trained.
        momentum: The weight of the average, from 0 to 1.
    """
    for name, parameter in module.named_parameters():
        average[name].lerp_(parameter, 1 - momentum)


@contextmanager
def weights_replaced(module: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Put other tensors in the place of all parameters of a module, and the parameters back at the end.

    Modules read them as `self.weight`; a parameter that several modules share is replaced in all of them.

    Args:
        module: The module.
        tensors: The tensor of each parameter, by the names of `named_parameters`.
    """
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    holders: list[tuple[dict[str, Tensor | None], str, nn.Parameter]] = [
        (cast(dict[str, Tensor | None], owner._parameters), attribute, parameter)
        for owner in module.modules()
        for attribute, parameter in owner._parameters.items()
        if parameter is not None
    ]
    try:
        for values, attribute, parameter in holders:
            values[attribute] = tensors[names[id(parameter)]]
        yield
    finally:
        for values, attribute, parameter in holders:
            values[attribute] = parameter
