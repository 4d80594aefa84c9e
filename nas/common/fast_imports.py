"""Import torch and transformers in two thirds of the time, in processes that belong to a search.

Both create about 600,000 objects that are never freed. The garbage collector would traverse them repeatedly while they
are created, and again in every later full collection, including the one at the end of the process.
"""

import gc
import sys


def import_frameworks() -> None:
    """Import torch and transformers with garbage collection paused, then exclude all existing objects from it.

    Only for processes that a search owns: the exclusion also affects objects of the caller, which is why `nas.models`,
    which any program may import, does not call this. A second call has no effect.
    """
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
