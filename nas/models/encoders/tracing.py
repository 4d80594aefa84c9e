"""Whether operations run on numbers, or are recorded, transformed or computed on shapes only."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad


def is_traced() -> bool:
    """Return whether PyTorch records or transforms the operations instead of just running them.

    True under `torch.compile`, `torch.export`, `torch.jit.trace`, `make_fx`, the transforms of `torch.func` and
    forward-mode differentiation. Whatever then depends on values (the lengths of texts) would be frozen into the
    result, and functions with their own backward pass are not supported by all of them.
    """
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return True
    internals: Any = torch._C
    return (
        internals._functorch.peek_interpreter_stack() is not None
        or internals._get_dispatch_mode(internals._TorchDispatchModeKey.PROXY) is not None
        or forward_ad._current_level >= 0
    )


def have_values(*tensors: Tensor | None) -> bool:
    """Return whether the values of tensors can be read, so that code may depend on them."""
    internals: Any = torch._C
    if is_traced() or internals._get_dispatch_mode(internals._TorchDispatchModeKey.FAKE) is not None:
        return False
    return all(tensor is None or (is_plain(tensor) and not tensor.is_meta) for tensor in tensors)


def is_plain(tensor: Tensor) -> bool:
    """Return whether a tensor is no subclass with its own behavior, such as a fake or a quantized tensor."""
    return type(tensor) in (Tensor, nn.Parameter)
