"""The device that a process computes on, and its memory: the one place that knows what an accelerator is.

An accelerator is what `torch.accelerator` finds: a CUDA GPU, or another kind whose backend is loaded.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from nas.common.errors import ExecutionError
from nas.common.precision import Precision

CPU = torch.device("cpu")
_KINDS = ("cuda",)
"""The kinds of accelerators that Ray gives to workers."""
BLOCK_BYTES = 512
"""The unit in which the allocators of accelerators give memory to tensors."""
AUTO = "auto"
"""The choice of an accelerator where there is one, otherwise of the CPU."""


def accelerator() -> torch.device | None:
    """Return the first accelerator that this process can use; None if there is none."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return None if found is None else torch.device(found.type, 0)


def device_of(choice: str) -> torch.device:
    """Return the device that a user has chosen.

    Args:
        choice: `auto`, `cpu`, a kind of accelerator such as `cuda`, which is its first, or one of them: `cuda:1`.

    Raises:
        ExecutionError: If this machine has no such device, or torch was built without it.
    """
    first = accelerator()
    if choice == AUTO:
        return first or CPU
    if choice == CPU.type:
        return CPU
    names = [] if first is None else [f"{first.type}:{index}" for index in range(torch.accelerator.device_count())]
    wanted = choice if ":" in choice else f"{choice}:0"
    if wanted not in names:
        allowed = ", ".join([AUTO, CPU.type, *names])
        raise ExecutionError(f"--device: not available here; expected one of {allowed}, got {choice!r}")
    return torch.device(wanted)


def others_like(device: torch.device) -> list[torch.device]:
    """Return the other accelerators of this process that are of the kind of a device; none for the CPU."""
    if not is_accelerator(device) or not is_here(device):
        return []
    indices = range(torch.accelerator.device_count())
    return [torch.device(device.type, index) for index in indices if index != (device.index or 0)]


def is_here(device: torch.device) -> bool:
    """Return whether this process can use a device."""
    if not is_accelerator(device):
        return True
    first = accelerator()
    return first is not None and first.type == device.type


def check_kind(choice: str) -> None:
    """Check that a user has chosen a kind of device for the workers of a cluster, each of which sees one device.

    Raises:
        ExecutionError: If it is one device, or nothing that torch knows.
    """
    if choice not in (AUTO, CPU.type, *_KINDS):
        allowed = ", ".join([AUTO, CPU.type, *_KINDS])
        raise ExecutionError(f"--device: not available for workers; expected one of {allowed}, got {choice!r}")


_counts_as: ContextVar[torch.device] = ContextVar("_counts_as", default=CPU)
"""The device that code on the CPU takes it for."""


@contextmanager
def counting_as(device: torch.device) -> Iterator[None]:
    """Let code that asks for the kind of a device take the CPU for another one.

    So tensors without data, which are on the CPU, are computed as on a device that need not be there.
    """
    token = _counts_as.set(device)
    try:
        yield
    finally:
        _counts_as.reset(token)


def has_cpu_kernels(device: torch.device) -> bool:
    """Return whether tensors of a device are computed by the kernels of CPUs, which are best for other shapes."""
    return device.type == CPU.type and _counts_as.get().type == CPU.type


def is_accelerator(device: torch.device) -> bool:
    """Return whether a device has memory of its own, beside that of the host."""
    return device.type != "meta" and not has_cpu_kernels(device)


def has_fused_updates(device: torch.device) -> bool:
    """Return whether optimizers can update all tensors of a model in one kernel, without further memory."""
    return is_accelerator(device)


def communication_backend(device: torch.device) -> str:
    """Return the backend of torch.distributed by which processes with a device each exchange tensors directly."""
    return "nccl" if device.type == "cuda" and torch.distributed.is_nccl_available() else "gloo"


def use_deterministic_kernels(device: torch.device) -> None:
    """Let this process compute the same numbers in every run on an accelerator; on the CPU it does in any case.

    An operator without a deterministic kernel then raises an error. To be called before the first product, since cuBLAS
    reads its setting only once.
    """
    if is_accelerator(device):
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        filling: Any = torch.utils.deterministic
        filling.fill_uninitialized_memory = False  # it costs kernels, and nothing reads such memory
        torch.use_deterministic_algorithms(True)


def fast_precision(device: torch.device) -> Precision:
    """Return the precision that a device is fast at: bfloat16 on GPUs with units for it, otherwise float32.

    A GPU that is on other machines only cannot be asked, and processors differ: some take longer for bfloat16.
    """
    has_units = device.type == "cuda" and torch.cuda.is_available() and torch.cuda.is_bf16_supported(False)
    return "bfloat16" if has_units else "float32"


def precision_of(choice: str, device: torch.device) -> Precision:
    """Return the precision that a user has chosen for a device: `float32`, `bfloat16`, or `auto`."""
    if choice == AUTO:
        return fast_precision(device)
    return "bfloat16" if choice == "bfloat16" else "float32"


def computing_in(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which products on a device are computed with a precision.

    It is for forward passes and losses; backward passes run outside of it, with the dtypes that these have left.
    """
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def product_dtype(precision: Precision) -> torch.dtype:
    """Return the dtype of the factors of products with a precision."""
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def is_fast_in_float16(device: torch.device) -> bool:
    """Return whether a device multiplies float16 matrices much faster than float32 ones: GPUs with tensor cores."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host on a device; the host waits for the copy only if its memory is not pinned."""
    return tensor.to(device, non_blocking=True)


def total_bytes(device: torch.device) -> int:
    """Return the memory of an accelerator in bytes."""
    _, total = _module(device).mem_get_info(device)
    return int(total)


def synchronize(device: torch.device) -> None:
    """Wait until a device has done all that was asked of it; the CPU always has."""
    if is_accelerator(device):
        _module(device).synchronize(device)


def device_name(device: torch.device) -> str:
    """Return the name of the model of a GPU; of other devices the name of their kind."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def replayed(step: Callable[[], object], device: torch.device) -> Callable[[], None] | None:
    """Record the kernels of a step on a GPU, and return a function that runs all of them by one call of the host.

    The step has to read the same tensors in every run, and to wait for nothing. What it computes, it leaves in the
    tensors of the recorded run.

    Args:
        step: The step; it is run four times.
        device: The device.

    Returns:
        The function; None where kernels cannot be recorded.
    """
    if device.type != "cuda":
        return None
    with torch.cuda.device(device):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):  # libraries take their memory, and the optimizer creates its state
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
    return graph.replay


def limit_memory(device: torch.device, limit_bytes: int | None) -> None:
    """Let the allocator of this process hold at most a number of bytes on an accelerator.

    Args:
        device: The accelerator.
        limit_bytes: The number of bytes; None for all that there is.
    """
    fraction = 1.0 if limit_bytes is None else min(limit_bytes / total_bytes(device), 1.0)
    _module(device).set_per_process_memory_fraction(fraction, device)


def start_peak(device: torch.device) -> None:
    """Return the free memory of this process on an accelerator to it, and measure the peak from here on."""
    _module(device).empty_cache()
    _module(device).reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int:
    """Return the most bytes that the allocator of this process has held on an accelerator since `start_peak`.

    Other processes cannot use them, whether they belong to tensors or are kept for later ones.
    """
    return int(_module(device).max_memory_reserved(device))


def allocated_peak_bytes(device: torch.device) -> int:
    """Return the most bytes that tensors of this process have needed on an accelerator since `start_peak`."""
    return int(_module(device).max_memory_allocated(device))


def outside_bytes(device: torch.device) -> int:
    """Return the bytes in use on an accelerator that do not belong to the allocator of this process.

    They belong to its context there, and to other processes.
    """
    free, total = _module(device).mem_get_info(device)
    return max(int(total) - int(free) - int(_module(device).memory_reserved(device)), 0)


def load_kernels(device: torch.device) -> None:
    """Multiply and add on an accelerator, forward and backward, so that libraries take the memory that they keep."""
    rows = torch.ones(64, 64, device=device, requires_grad=True)
    torch.autograd.backward((rows @ rows + rows).sum())
    synchronize(device)


class HostCopy:
    """A copy of a tensor on the host, for which the host waits only when it needs the values.

    On an accelerator, copying at once (`tensor.cpu()`, `float(tensor)`) waits until the device has done all that was
    asked of it, and the device then waits for the host.

    Args:
        tensor: The tensor, without a graph; on the CPU it is the copy itself.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._values, self._copied = tensor, None
        if is_accelerator(tensor.device):
            self._values = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._values.copy_(tensor, non_blocking=True)
            self._copied = torch.Event(tensor.device)
            # Of the device of the tensor: without it, of the one that this thread uses by default.
            self._copied.record(torch.accelerator.current_stream(tensor.device))

    def wait(self) -> Tensor:
        """Return the values, once the device has computed and copied them."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._values


def _module(device: torch.device) -> Any:
    return torch.get_device_module(device.type)
