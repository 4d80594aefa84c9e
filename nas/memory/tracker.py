"""Follow the storages of real tensors from their allocation to their release."""

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakTracker(TorchDispatchMode):
    """Follows the bytes of all storages that operations allocate while it is active, and their peak.

    Args:
        weights: Tensors that are counted elsewhere; views of them, which operations return, are not counted here.
    """

    def __init__(self, weights: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # The storages themselves are held, so that their identities stay theirs.
        self._elsewhere = {id(storage): storage for storage in (tensor.untyped_storage() for tensor in weights)}
        self.live_bytes = 0
        self.peak_bytes = 0
        self._known: dict[int, Any] = {}

    def follow(self, tensor: torch.Tensor) -> None:
        """Count a tensor's storage from now until it is released; a storage is counted once."""
        storage = tensor.untyped_storage()
        identity, size = id(storage), storage.nbytes()
        if identity in self._known or identity in self._elsewhere:
            return
        self._known[identity] = weakref.finalize(storage, self._release, identity, size)
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)

    def _release(self, identity: int, size: int) -> None:
        del self._known[identity]
        self.live_bytes -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, torch.Tensor):
                self.follow(leaf)
        return output

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        for finalizer in self._known.values():
            finalizer.detach()
