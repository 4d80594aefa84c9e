"""The kernels of torch's attention on accelerators, for tensors without data, which torch takes for the CPU's."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

_BIAS_UNIT = 16
"""The unit of the last dimension of a bias that the kernels of CUDA read; torch pads others."""


class AcceleratorAttention(TorchFunctionMode):
    """Mode in which attention runs the operators that torch takes for it on an accelerator.

    On CUDA these are FlashAttention for half precision without a bias, and otherwise the memory-efficient kernel. On
    other accelerators attention is matrix products and a softmax.

    Args:
        device: The accelerator.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._attention = _attention_on_cuda if device.type == "cuda" else _attention_by_products

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is scaled_dot_product_attention:
            return _with_autocast(self._attention, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _with_autocast(
    attention: Callable[..., Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    *,
    scale: float | None = None,
) -> Tensor:
    """Call an attention on operands in the dtype that autocast gives them."""
    kind = query.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        query, key, value = (operand.to(dtype) for operand in (query, key, value))
        attn_mask = None if attn_mask is None else attn_mask.to(dtype)
    return attention(query, key, value, attn_mask, scale)


def _attention_on_cuda(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float | None) -> Tensor:
    outputs: tuple[Tensor, ...]
    if bias is None and query.dtype in (torch.float16, torch.bfloat16):
        outputs = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, scale=scale)
        return outputs[0]
    if bias is not None:
        missing = -bias.shape[-1] % _BIAS_UNIT
        if missing:
            bias = pad(bias, (0, missing))[..., :-missing]
        bias = bias.expand(*query.shape[:-1], key.shape[-2])
    has_graph = any(operand.requires_grad for operand in (query, key, value))
    attention = torch.ops.aten._scaled_dot_product_efficient_attention
    outputs = attention(query, key, value, bias, has_graph, scale=scale)
    return outputs[0]


def _attention_by_products(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float | None
) -> Tensor:
    outputs: tuple[Tensor, ...]
    outputs = torch.ops.aten._scaled_dot_product_attention_math(query, key, value, bias, scale=scale)
    return outputs[0]
