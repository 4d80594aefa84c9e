"""Workaround for a race in oneMKL: the first call of every vector function is made by one thread.

On CPUs torch computes elementwise functions of contiguous tensors with oneMKL's vector functions, in several threads at
once. In oneMKL 2024.2, which the wheels of torch 2.13 contain, each function selects its kernel in its first call. If
several threads make that call, one of them may use a low-accuracy kernel, once (reported for Intel processors on busy
machines: https://github.com/pytorch/pytorch/issues/188792). On an affected machine, in about one process of ten, the
first training step of PMF had gradients of query prompts off by 3e-5 of the largest; later steps were exact.
"""

import torch

FUNCTIONS = (
    torch.acos,
    torch.asin,
    torch.atan,
    torch.cos,
    torch.erf,
    torch.erfc,
    torch.exp,
    torch.expm1,
    torch.log,
    torch.log10,
    torch.log1p,
    torch.log2,
    torch.sin,
    torch.sqrt,
    torch.tan,
    torch.tanh,
    torch.trunc,
)
"""The functions that torch computes with oneMKL (ATen/cpu/vml.h)."""

_resolved: set[torch.dtype] = set()


def resolve_vector_functions() -> None:
    """Make every vector function select its kernel, by a call with one element in the calling thread.

    Every encoder calls this when it is built, before anything can compute with it. Later calls have no effect, and
    neither have calls in a mode without real tensors, such as `FakeTensorMode`.
    """
    for dtype in (torch.float32, torch.float64):
        if dtype not in _resolved:
            one = torch.ones(1, dtype=dtype, device="cpu")
            if type(one) is not torch.Tensor:
                return
            for function in FUNCTIONS:
                function(one)
            _resolved.add(dtype)
