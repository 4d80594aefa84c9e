"""Predict the peak bytes of a candidate's training without running it; measure what a process really holds.

The step runs on fake tensors, which have sizes and no data, under a dispatch mode that follows every storage from its
allocation to its release: the same code as the real step, so the same tensors are alive at the same time.
"""

import ctypes
import threading
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedConfig

from nas.config import FeaturesConfig, RecipeConfig
from nas.data import Batch
from nas.encoders import build_encoder
from nas.fusion import PMF, trainable_parameter_count
from nas.fusion.attention import DataAttention
from nas.space import Architecture
from nas.training import Trainer

_STATE_TENSORS = {"sgd": 1, "adamw": 2}
"""Optimiser state, in tensors as large as the parameter."""

PROCESS_BYTES = 550 * 2**20
"""Private memory of a worker beside all tensors: interpreter, torch, transformers and Ray (270 MiB after the imports
on Linux x86-64), oneDNN's programs (up to 80 MiB), thread pools, and freed memory that the allocator keeps. Predicted
and measured peaks stand side by side in every run's results.csv."""


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


@dataclass(frozen=True)
class PeakPrediction:
    """Private bytes of one training process at its peak, by what holds them.

    Frozen weights are not among them: workers map those of the fusing layers from a file, which the system holds once.
    """

    process_bytes: int
    supernet_bytes: int
    trained_bytes: int
    optimizer_bytes: int
    step_bytes: int

    @property
    def peak_bytes(self) -> int:
        held = self.process_bytes + self.supernet_bytes
        return held + self.trained_bytes + self.optimizer_bytes + self.step_bytes


class MemoryModel:
    """Predicts the peak of training any architecture of two encoders on one recipe; cached by architecture.

    Args:
        image_config: Configuration of the image encoder.
        text_config: Configuration of the text encoder.
        recipe: Batch size and optimiser.
        image_token_count: S.
        text_token_count: T of the longest text, for which the peak is predicted.
        class_count: C.
        features: Type of the tokens that are read, and whether their attention is read with them.
        supernet: The space's largest architecture, whose weights a worker holds beside the candidate's.
        process_bytes: What a worker holds before it trains.
    """

    def __init__(
        self,
        *,
        image_config: PreTrainedConfig,
        text_config: PreTrainedConfig,
        recipe: RecipeConfig,
        image_token_count: int,
        text_token_count: int,
        class_count: int,
        features: FeaturesConfig,
        supernet: Architecture,
        process_bytes: int = PROCESS_BYTES,
    ) -> None:
        self._mode = FakeTensorMode()
        with self._mode:
            self._image_encoder = build_encoder(image_config)
            self._text_encoder = build_encoder(text_config)
        self._recipe = recipe
        self._tokens = (image_token_count, text_token_count)
        self._class_count = class_count
        self._features = features
        self._process_bytes = process_bytes
        self._supernet_bytes = 4 * trainable_parameter_count(
            image_width=self._image_encoder.width,
            text_width=self._text_encoder.width,
            fusing_layers=min(self._image_encoder.depth, self._text_encoder.depth) - supernet.fusion_layer,
            architecture=supernet,
            class_count=class_count,
        )
        self._cache: dict[Architecture, PeakPrediction] = {}

    def predict(self, architecture: Architecture) -> PeakPrediction:
        """Peak of training the architecture stand-alone.

        Evaluation needs less: its batches are as large, and it keeps nothing for a backward pass.
        """
        if architecture not in self._cache:
            self._cache[architecture] = self._predict(architecture)
        return self._cache[architecture]

    def _predict(self, architecture: Architecture) -> PeakPrediction:
        with self._mode:
            model = PMF(
                image_encoder=self._image_encoder,
                text_encoder=self._text_encoder,
                architecture=architecture,
                class_count=self._class_count,
            )
            trainer = Trainer(model=model, recipe=self._recipe, step_count=1, weights=None)
            weights = [*model.parameters(), *self._image_encoder.parameters(), *self._text_encoder.parameters()]
            with PeakTracker(weights) as tracker:
                parts = (self._batch(architecture) for _ in range(1))
                trainer.accumulate_gradients(parts, self._recipe.batch_size)
        trained = sum(_bytes(parameter) for parameter in model.parameters())
        return PeakPrediction(
            process_bytes=self._process_bytes,
            supernet_bytes=self._supernet_bytes,
            trained_bytes=trained,
            optimizer_bytes=trained * _STATE_TENSORS[self._recipe.optimizer],
            step_bytes=tracker.peak_bytes,
        )

    def _batch(self, architecture: Architecture) -> Batch:
        """A fake batch of the longest texts, as a feature store gives it."""
        size, dtype = self._recipe.batch_size, getattr(torch, self._features.dtype)
        encoders = (self._image_encoder, self._text_encoder)
        tokens = [
            torch.empty(size, count, encoder.width, dtype=dtype)
            for encoder, count in zip(encoders, self._tokens, strict=True)
        ]
        attention: list[DataAttention | None] = [None, None]
        fusing = min(encoder.depth for encoder in encoders) - architecture.fusion_layer
        if self._features.attention and fusing > 1:
            attention = [
                DataAttention(
                    torch.empty_like(rows),
                    torch.empty(*rows.shape[:2], encoder.layers[0].projections.head_count),
                )
                for encoder, rows in zip(encoders, tokens, strict=True)
            ]
        return Batch(
            image_tokens=tokens[0],
            text_tokens=tokens[1],
            text_mask=torch.ones(size, self._tokens[1], dtype=torch.bool),
            labels=torch.zeros(size, dtype=torch.int64),
            image_attention=attention[0],
            text_attention=attention[1],
        )


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def private_bytes() -> int:
    """Private memory of this process now (Linux): what it has written; not what is shared, nor files that it maps."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "Private_Dirty":
            return int(value.split()[0]) * 1024
    raise OSError("/proc/self/smaps_rollup has no line Private_Dirty")


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt


def keep_freed_memory() -> None:
    """Let this process keep what it frees, where the C library can, until `release_freed_memory`.

    Else large tensors go back to the system when they are freed, and every new one is paged in anew: a tenth of the
    time of a training step.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_MMAP_THRESHOLD, 2**30)
        set_option(_M_TRIM_THRESHOLD, 2**31 - 1)


def release_freed_memory() -> None:
    """Give what was freed back to the system, where the C library can: else one job's peak is held through the next."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; others have no such need or no such function
    if trim is not None:
        trim(0)


class PeakSampler:
    """Highest private memory of this process while active, looked at four times a second.

    After `with`, `peak_bytes` holds it.
    """

    _EVERY_SECONDS = 0.25  # a look takes some milliseconds, in which the training waits

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._done.wait(self._EVERY_SECONDS):
            self.peak_bytes = max(self.peak_bytes, private_bytes())

    def __enter__(self) -> "PeakSampler":
        self.peak_bytes = private_bytes()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.peak_bytes = max(self.peak_bytes, private_bytes())
