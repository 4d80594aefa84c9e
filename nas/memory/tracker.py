"""Track the storages of real tensors from their allocation to their release."""

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakTracker(TorchDispatchMode):
    """Mode that tracks the live bytes of all storages allocated by operations, and their peak.

    Args:
        weights: The tensors to ignore, together with the views of them that operations return.
    """

    def __init__(self, weights: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # Holds the storages, so that their identities are not reused.
        self._ignored = {id(storage): storage for storage in (tensor.untyped_storage() for tensor in weights)}
        self.live_bytes = 0
        """Bytes of the tracked storages that are alive."""
        self.peak_bytes = 0
        """The highest `live_bytes`."""
        self._tracked: dict[int, Any] = {}

    def follow(self, tensor: torch.Tensor) -> None:
        """Count the storage of a tensor from now until its release; a storage is counted once."""
        storage = tensor.untyped_storage()
        identity, size = id(storage), storage.nbytes()
        if identity in self._tracked or identity in self._ignored:
            return
        self._tracked[identity] = weakref.finalize(storage, self._release, identity, size)
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)

    def _release(self, identity: int, size: int) -> None:
        del self._tracked[identity]
        self.live_bytes -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, torch.Tensor):
                self.follow(leaf)
        return output

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        for finalizer in self._tracked.values():
            finalizer.detach()
