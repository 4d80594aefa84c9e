"""Memory of a worker process besides the tensors of its training, by the kind of its device."""

from dataclasses import dataclass

import torch

from nas.common.devices import BLOCK_BYTES, is_accelerator

PROCESS_BYTES = 500 * 2**20
"""Private memory of a worker apart from all tensors, before it is measured; a cautious value. Measured on Linux x86-64
with torch 2.13 and Ray 2.60: 350 MiB after loading the encoders, 60 MiB more with the first job, then up to 80 MiB of
compiled oneDNN kernels; 465 MiB after 40 jobs of the demo."""

CONTEXT_BYTES = 640 * 2**20
"""Memory of a process on an accelerator outside of torch's allocator, unless less is measured: the driver's context and
the kernels that were loaded. A cautious value for recent GPUs, not measured on one."""

_WORKSPACE_BYTES = 2 * 32 * 2**20
"""Workspaces of cuBLAS in torch's allocator: 32 MiB on Hopper GPUs, 8 MiB on others, for each thread that multiplies;
the backward pass has a thread of its own."""

_FRAGMENTATION = 0.6
"""Memory that a process holds in addition, as a fraction of all tensors, when it keeps freed memory
(`keep_freed_memory`); a cautious value. Measured: 0.17 to 0.35 for steps at base size, 0.25 to 0.75 for steps of the
demo, where PROCESS_BYTES leaves room for the difference."""


@dataclass(frozen=True)
class Overheads:
    """What a prediction adds to the bytes of the tensors of a training.

    Args:
        process_bytes: The memory of the process apart from all tensors.
        allocator_bytes: The memory that the allocator needs between the tensors.
        block_bytes: The unit of the allocator, to which every tensor is rounded up.
    """

    process_bytes: int
    allocator_bytes: int
    block_bytes: int


ON_CPU = Overheads(
    process_bytes=PROCESS_BYTES,
    # Fragmentation between tensors that are too small to be mapped on their own. The measured peaks of 44 steps at base
    # size with `map_large_tensors` were 0 to 5 MiB above the tensors, 1.6 MiB in the median; a larger value would be
    # wrong for the smallest steps.
    allocator_bytes=2**20,
    block_bytes=1,
)

ON_ACCELERATOR = Overheads(
    process_bytes=CONTEXT_BYTES + _WORKSPACE_BYTES,
    # Segments are mapped in pages of 2 MiB for small and 20 MiB for large tensors (`expandable_segments`), of which the
    # last one of each kind, and those at the two ends of a gap, are partly used.
    allocator_bytes=(2 + 3 * 20) * 2**20,
    block_bytes=BLOCK_BYTES,
)


def overheads_on(device: torch.device) -> Overheads:
    """Return the overheads of a worker on a device."""
    return ON_ACCELERATOR if is_accelerator(device) else ON_CPU


def bytes_with_fragmentation(peak_bytes: int) -> int:
    """Return the memory to grant to a process that keeps freed memory, given its predicted peak without fragmentation.

    Args:
        peak_bytes: The predicted peak of the process, in bytes.
    """
    return peak_bytes + max(round(_FRAGMENTATION * (peak_bytes - PROCESS_BYTES)), 0)
