"""The optimizer of a training: which weights it updates, and how fast."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from nas.common.devices import has_fused_updates
from nas.config.training_schema import RecipeConfig


def set_learning_rates(
    optimizer: torch.optim.Optimizer, factor: float, prompted_layers: Sequence[int], recipe: RecipeConfig
) -> None:
    """Set the learning rates of one step.

    Args:
        optimizer: The result of `build_optimizer`.
        factor: The fraction of the peak rates; see `learning_rate_factor`.
        prompted_layers: The number of layers with prompts or mappings of each architecture that is trained.
        recipe: The scaling with that number.
    """
    scale = sum(count**-recipe.depth_scaling for count in prompted_layers) / len(prompted_layers)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor * (scale if group["is_scaled"] else 1.0)


def _parameter_group(name: str) -> str:
    """Return the group of a parameter, which determines its learning rate; see `FusionModel`."""
    name = name.removeprefix("model.")  # of the fusion model in a pretraining
    if name.startswith(("image_encoder.", "text_encoder.")):
        return "encoders"
    return "classifiers" if "classifier" in name else "prompts" if "prompts" in name else "mappings"


def build_optimizer(model: nn.Module, recipe: RecipeConfig, device: torch.device) -> torch.optim.Optimizer:
    """Return the optimizer of a recipe for all parameters of a model, in groups with their own peak rates.

    Args:
        model: A fusion model, or a module that holds one as `model`.
        recipe: The optimizer and the learning rates.
        device: The device of the parameters.
    """
    members: dict[str, list[nn.Parameter]] = {"prompts": [], "mappings": [], "classifiers": [], "encoders": []}
    for name, parameter in model.named_parameters():
        members[_parameter_group(name)].append(parameter)
    groups = [
        {
            "params": parameters,
            "peak": getattr(recipe.learning_rates, group),
            "is_scaled": group in ("prompts", "mappings"),
        }
        for group, parameters in members.items()
        if parameters or group == "classifiers"  # an optimizer needs a group, even if nothing is trained
    ]
    options: dict[str, Any] = {"lr": 0.0, "weight_decay": recipe.weight_decay}
    # foreach=False, the default on CPUs: updating all tensors at once would need a second set of gradients.
    options |= {"fused": True} if has_fused_updates(device) else {"foreach": False}
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=recipe.momentum, **options)
    return torch.optim.AdamW(groups, betas=(recipe.momentum, 0.999), **options)
