"""Whether a model is still what its constructor built: what computes with parts of layers relies on it."""

from torch import nn
from torch.nn.modules import module as torch_modules

from nas.models.encoders.base import Encoder
from nas.models.encoders.tracing import is_plain

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class BuiltModules:
    """The modules of a model as they were built.

    Args:
        model: The model, complete.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = tuple(model.modules())[1:]

    def are_changed(self, model: nn.Module) -> bool:
        """Return whether the model computes anything else than the built modules with plain weights.

        Args:
            model: The same model now, or a copy of it.
        """
        current = tuple(model.modules())[1:]
        if len(current) != len(self._modules) or any(a is not b for a, b in zip(current, self._modules, strict=True)):
            return True  # replaced modules: adapters, quantized layers, parametrizations
        if torch_modules._has_any_global_hook():
            return True
        in_encoders = {id(part) for part in current if isinstance(part, Encoder) for part in part.modules()}
        return any(
            "forward" in vars(part)
            or any(getattr(part, name) for name in _HOOKS)
            or (part.training and id(part) in in_encoders)  # dropout
            or not all(is_plain(weight) for weight in part._parameters.values() if weight is not None)
            for part in current  # without the model itself, whose hooks see its inputs and outputs only
        )
