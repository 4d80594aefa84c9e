"""torch and transformers, imported in two thirds of the time; what starts a process of the search imports this first.

They make some 600,000 objects that stay. While they are made Python's garbage collector looks through them again and
again, and at every full collection after that, the one at the process's end included, through all of them. Here it
waits until they are there and leaves them out from then on. What exists at that moment is left out as well, which is
why the models (`nas.models.fusion`), which anybody's program may load, do without.
"""

import gc

_is_enabled = gc.isenabled()
gc.disable()
try:
    import torch  # noqa: F401
    import transformers.modeling_utils  # noqa: F401
finally:
    if _is_enabled:
        gc.enable()
gc.freeze()
