"""The first call of a vector function, by one thread.

On CPUs torch computes elementwise functions of contiguous tensors by oneMKL's vector functions, several threads at
once. Of oneMKL 2024.2, which torch 2.13's wheels hold, each function chooses its kernel in its first call, and where
several threads make that call, one may compute its share by a kernel of low accuracy, once (reported of Intel
processors on busy machines: https://github.com/pytorch/pytorch/issues/188792). Where that was possible, in about one
process of ten, the first step of PMF, and no later one, had gradients of query prompts off by 3e-5 of the largest.
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
"""What torch leaves to oneMKL's vector functions (ATen/cpu/vml.h)."""


def resolve_vector_functions() -> None:
    """Let every vector function choose its kernel now: one element is computed by the calling thread alone."""
    for kind in (torch.float32, torch.float64):
        one = torch.ones(1, dtype=kind)
        for function in FUNCTIONS:
            function(one)
