"""Products with frozen weights: less time and memory than with autograd, the same numbers.

A frozen weight needs no gradient, so the backward pass is one product with its transpose, and no input has to be kept.
On CPUs float32 products go through oneDNN, which on many processors is faster than the BLAS behind
`torch.nn.functional.linear` (twice as fast on AMD processors with AVX-512) and also multiplies in float32. Where the
weights are trained, all functions fall back to autograd.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import gelu, linear, silu

from nas.common.devices import has_cpu_kernels, is_accelerator

_CHUNK_BYTES = 4 * 2**20
"""Size of a chunk of hidden activations in a feed-forward block; a chunk fits into the cache of a core."""
_MAX_CHUNKS = 128
"""Far above the chunks of usual batches; bounds the operations of a step, and with them the time that tracing takes."""


def rows_per_chunk(rows: Tensor, preferred: int) -> int:
    """Return the rows of a chunk: the preferred number, or more if there were too many chunks.

    An accelerator computes all rows at once: it has no cache to fill, and every kernel has its cost.

    Args:
        rows: All rows, (N, …).
        preferred: The number that is fastest on a CPU.
    """
    return max(preferred, len(rows) if is_accelerator(rows.device) else -(-len(rows) // _MAX_CHUNKS))


def product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return rows (…, K) · weight (N, K)ᵀ + bias (N,), (…, N), in the dtype of the rows and without a graph.

    A weight of higher precision is cast, as autocast does; one of lower precision is an error, since it was rounded for
    rows of its own.
    """
    if weight.dtype.itemsize > rows.dtype.itemsize:
        weight, bias = weight.to(rows.dtype), None if bias is None else bias.to(rows.dtype)
    if has_cpu_kernels(rows.device) and rows.dtype == torch.float32 and _has_onednn():
        # oneDNN reorders the weights in every call, which costs 5 to 10 %: reordered copies could not be mapped from a
        # file and shared by workers.
        result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
        return result
    return linear(rows, weight, bias)


def autocasted(rows: Tensor) -> Tensor:
    """Cast float32 rows to the dtype of autocast, where it is enabled."""
    if is_autocast(rows) and rows.dtype == torch.float32:
        return rows.to(torch.get_autocast_dtype(rows.device.type))
    return rows


def is_autocast(rows: Tensor) -> bool:
    """Return whether autocast is enabled for the device of a tensor."""
    kind = rows.device.type
    return kind != "meta" and torch.is_autocast_enabled(kind)


def _has_onednn() -> bool:
    return bool(torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled)


class _FrozenLinear(torch.autograd.Function):
    """See `frozen_linear`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight  # frozen: unchanged between forward and backward
        return product(rows, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return product(gradients[0], ctx.weight.t(), None), None, None


def is_trained(layer: nn.Linear) -> bool:
    """Return whether the weight or the bias of a layer is trained."""
    return layer.weight.requires_grad or (layer.bias is not None and layer.bias.requires_grad)


def frozen_linear(rows: Tensor, layer: nn.Linear) -> Tensor:
    """Return `layer(rows)`, (…, K) → (…, N), at lower cost if the weights are frozen."""
    if is_trained(layer):
        return linear(rows, layer.weight, layer.bias)
    result: Tensor = _FrozenLinear.apply(autocasted(rows), layer.weight, layer.bias)  # type: ignore[no-untyped-call]
    return result


def multiply_per_head(rows: Tensor, weight: Tensor) -> Tensor:
    """Return rows (B, H, R, a) times weight (H, a, b), (B, H, R, b), as one product per head."""
    size, heads, count, _ = rows.shape
    multiplied = rows.transpose(0, 1).reshape(heads, size * count, rows.shape[3]) @ weight.to(rows.dtype)
    return multiplied.view(heads, size, count, weight.shape[2]).transpose(0, 1)


@dataclass(frozen=True)
class Activation:
    """An elementwise function.

    Args:
        forward: The function of x.
        backward: Function of the output's gradient and x that overwrites the gradient with that of x.
    """

    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], object]


def _gelu(approximate: str) -> Activation:
    def backward(gradient: Tensor, x: Tensor) -> object:
        # In place: the kernel reads an element of each and then writes that element.
        return torch.ops.aten.gelu_backward.grad_input(gradient, x, approximate=approximate, grad_input=gradient)

    return Activation(lambda x: gelu(x, approximate=approximate), backward)


def _quick_gelu_backward(gradient: Tensor, x: Tensor) -> object:
    gate = torch.sigmoid(1.702 * x)
    return gradient.mul_(gate * (1 + 1.702 * x * (1 - gate)))


ACTIVATIONS = {
    "gelu": _gelu("none"),
    "gelu_pytorch_tanh": _gelu("tanh"),
    "gelu_new": _gelu("tanh"),
    "quick_gelu": Activation(lambda x: x * torch.sigmoid(1.702 * x), _quick_gelu_backward),
    "relu": Activation(torch.relu, lambda gradient, x: gradient.mul_(x > 0)),
    "silu": Activation(
        silu,
        lambda gradient, x: torch.ops.aten.silu_backward.grad_input(gradient, x, grad_input=gradient),
    ),
}
"""Supported activations, by their name in a checkpoint's configuration."""


class _FrozenFeedForward(torch.autograd.Function):
    """See `FrozenFeedForward`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, inner: nn.Linear, activation: Activation, outer: nn.Linear) -> Tensor:
        flat = rows.reshape(-1, rows.shape[-1])
        is_trained = ctx.needs_input_grad[0]
        fastest = max(_CHUNK_BYTES // (inner.out_features * flat.element_size()), 64)
        ctx.hidden, ctx.chunk_rows, ctx.parts = [], rows_per_chunk(flat, fastest), (inner, activation, outer)

        def compute(chunk: Tensor) -> Tensor:
            hidden = product(chunk, inner.weight, inner.bias)
            if is_trained:
                ctx.hidden.append(hidden)  # all that the backward pass needs
            return product(activation.forward(hidden), outer.weight, outer.bias)

        return _by_chunks(compute, flat, ctx.chunk_rows, outer.out_features).view(*rows.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        inner, activation, outer = ctx.parts
        flat = gradients[0].reshape(-1, gradients[0].shape[-1])

        def compute(chunk: Tensor) -> Tensor:
            gradient = product(chunk, outer.weight.t(), None)
            activation.backward(gradient, ctx.hidden.pop(0))
            return product(gradient, inner.weight.t(), None)

        result = _by_chunks(compute, flat, ctx.chunk_rows, inner.in_features)
        return result.view(*gradients[0].shape[:-1], -1), None, None, None


def _by_chunks(compute: Callable[[Tensor], Tensor], rows: Tensor, count: int, width: int) -> Tensor:
    """Return what a function computes of rows (N, D), `count` at a time: (N, width)."""
    if 0 < len(rows) <= count:
        return compute(rows)
    output = rows.new_empty(len(rows), width)
    for start in range(0, len(rows), count):
        output[start : start + count] = compute(rows[start : start + count])
    return output


class FrozenFeedForward:
    """The feed-forward block outer(activation(inner(x))), computed in chunks of rows if the weights are frozen.

    Exact, because rows are independent of each other. Only `inner(x)` is kept for the backward pass, which frees it
    chunk by chunk.

    Args:
        inner: Linear(D → hidden).
        activation: A name in `ACTIVATIONS`.
        outer: Linear(hidden → D).

    Raises:
        KeyError: If the activation is not supported.
    """

    def __init__(self, inner: nn.Linear, activation: str, outer: nn.Linear) -> None:
        ACTIVATIONS[activation]  # checked here, looked up in each call: a function cannot be pickled
        self.inner, self.activation, self.outer = inner, activation, outer

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the output for rows (…, D), in the same shape."""
        activation = ACTIVATIONS[self.activation]
        if is_trained(self.inner) or is_trained(self.outer):
            return frozen_linear(activation.forward(frozen_linear(rows, self.inner)), self.outer)
        result: Tensor = _FrozenFeedForward.apply(  # type: ignore[no-untyped-call]
            autocasted(rows), self.inner, activation, self.outer
        )
        return result
