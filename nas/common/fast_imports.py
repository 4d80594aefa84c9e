"""Import torch and transformers in two thirds of the time, in processes that belong to a search.

Both create about 600,000 objects that are never freed. The garbage collector would traverse them repeatedly while they
are created, and again in every later full collection, including the one at the end of the process.
"""

import gc
import os
import sys

_ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


def allocator_environment() -> dict[str, str]:
    """Return the environment variable with which torch's allocator keeps few gaps on a GPU, unless the user chose one.

    A worker may reserve little more than its tensors need there. It is read when a process first uses a GPU.
    """
    is_chosen = any(name in os.environ for name in _ALLOCATOR_VARIABLES)
    return {} if is_chosen else {_ALLOCATOR_VARIABLES[0]: "expandable_segments:True"}


def import_frameworks() -> None:
    """Import torch and transformers with garbage collection paused, then exclude all existing objects from it.

    Only for processes that a search owns: the exclusion also affects objects of the caller, which is why `nas.models`,
    which any program may import, does not call this. A second call has no effect.
    """
    os.environ |= allocator_environment()
    if "torch" in sys.modules and "transformers.modeling_utils" in sys.modules:
        return
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        import torch  # noqa: F401
        import transformers.modeling_utils  # noqa: F401
    finally:
        if was_enabled:
            gc.enable()
    gc.freeze()
