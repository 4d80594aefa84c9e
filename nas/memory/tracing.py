"""Run code on tensors that have sizes and no data, and note every storage that it allocates and releases.

It is the same code as the real step, so the same tensors are alive at the same time. What an operation makes of
operands of certain shapes is learned once, on torch's meta device, and remembered: ten times as fast as torch's own
fake tensors, and the same to the byte.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_META, _CPU = torch.device("meta"), torch.device("cpu")


@dataclass(frozen=True)
class Trace:
    """What a piece of code allocated and released, in order.

    Args:
        events: k + 1 where storage k is allocated, −(k + 1) where it is released.
        sizes: Bytes of every storage, in the order of their allocation.
    """

    events: NDArray[np.int64]
    sizes: NDArray[np.int64]

    @property
    def live_bytes(self) -> NDArray[np.int64]:
        """Bytes alive after every event."""
        changes: NDArray[np.int64] = np.sign(self.events) * self.sizes[np.abs(self.events) - 1]
        return changes.cumsum()

    @property
    def peak_bytes(self) -> int:
        return int(self.live_bytes.max(initial=0))


class _Storage:
    """Notes its allocation and its release; a tensor has it as long as it lives, and shares it with its views."""

    __slots__ = ("_events", "_number")

    def __init__(self, size: int, notes: "_Notes | None") -> None:
        self._events: list[int] | None = None
        if notes is not None:
            notes.sizes.append(size)
            self._events, self._number = notes.events, len(notes.sizes)
            self._events.append(self._number)

    def __del__(self) -> None:
        if self._events is not None:
            self._events.append(-self._number)


@dataclass
class _Notes:
    events: list[int]
    sizes: list[int]


class SizedTensor(Tensor):
    """Looks like a tensor on the CPU, and has no data."""

    storage_: _Storage
    described: tuple[Any, ...]

    @staticmethod
    def of(
        shape: Sequence[int], stride: Sequence[int], dtype: torch.dtype, described: tuple[Any, ...], storage: _Storage
    ) -> "SizedTensor":
        """A tensor of that look whose data would be in that storage; `described` is what rules know it by."""
        tensor: SizedTensor = Tensor._make_wrapper_subclass(SizedTensor, shape, stride, dtype=dtype, device=_CPU)
        tensor.described, tensor.storage_ = described, storage
        return tensor

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise RuntimeError(f"{func} was called on a tensor without data outside of its rehearsal")


@dataclass(frozen=True)
class _Made:
    """A tensor that an operation returns.

    Args:
        shape: Its shape.
        stride: As a real one has it, since it decides what is copied later.
        dtype: Its type.
        described: All three.
        size: Bytes of its storage.
        source: Place of the argument whose view it is; None where its storage is its own.
    """

    shape: Sequence[int]
    stride: Sequence[int]
    dtype: torch.dtype
    described: tuple[Any, ...]
    size: int
    source: int | None


@dataclass(frozen=True)
class _Rule:
    """What an operation makes of operands of certain shapes: tensors, or where `made` is None a constant."""

    made: tuple[_Made | None, ...] | None
    is_single: bool
    constant: Any


class ShapeTracer(TorchDispatchMode):
    """While it is active, tensors are made without data; what they would hold is noted between `start` and `stop`.

    DirectionSizes that depend on data are the largest possible: every place of a mask is true.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rules: dict[Any, _Rule] = {}
        self._written: dict[Any, tuple[tuple[int, str], ...]] = {}
        self._notes: _Notes | None = None

    def start(self) -> None:
        """Note from now on; storages that are there already are not counted, nor is their release."""
        self._notes = _Notes([], [])

    def stop(self) -> Trace:
        """What was noted."""
        assert self._notes is not None
        trace = Trace(np.array(self._notes.events, dtype=np.int64), np.array(self._notes.sizes, dtype=np.int64))
        self._notes = None
        return trace

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        written = self._written.get(func)
        if written is None:
            written = self._written[func] = _written_arguments(func)
        if written:  # who writes into tensors makes none, and returns them if anything
            outputs = [args[place] if place < len(args) else kwargs[name] for place, name in written]
            return None if not func._schema.returns else outputs[0] if len(outputs) == 1 else tuple(outputs)
        key = (func, _described(args), _described(tuple(kwargs.items())) if kwargs else None)
        rule = self._rules.get(key)
        if rule is None:
            rule = self._rules[key] = _learned(func, args, kwargs)
        if rule.made is None:
            return rule.constant
        tensors: list[SizedTensor | None] = []
        for made in rule.made:
            if made is None:  # not asked for
                tensors.append(None)
                continue
            storage = _Storage(made.size, self._notes) if made.source is None else args[made.source].storage_
            tensors.append(SizedTensor.of(made.shape, made.stride, made.dtype, made.described, storage))
        return tensors[0] if rule.is_single else tuple(tensors)


def _written_arguments(func: Any) -> tuple[tuple[int, str], ...]:
    """Place and name of every argument that an operation writes into."""
    entries = enumerate(func._schema.arguments)
    return tuple((place, entry.name) for place, entry in entries if entry.alias_info and entry.alias_info.is_write)


def _described(value: Any) -> Any:
    """What an operation's outcome depends on, hashable; with the type, since 1, 1.0 and True are equal."""
    if isinstance(value, SizedTensor):
        return value.described
    if isinstance(value, tuple | list):
        return tuple([_described(item) for item in value])
    if isinstance(value, Tensor):
        return tuple(value.shape), value.stride(), value.dtype
    return type(value), value


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, tuple | list):
        return type(value)([_mapped(function, item) for item in value])
    return function(value)


def _on_meta(value: Any) -> Any:
    """A tensor of the same look on the meta device; that device for any other."""
    if isinstance(value, Tensor):
        return torch.empty_strided(tuple(value.shape), value.stride(), dtype=value.dtype, device=_META)
    return _META if isinstance(value, torch.device) else value


def _learned(func: Any, args: Any, kwargs: dict[str, Any]) -> _Rule:
    """The rule of an operation that writes into no argument."""
    operands, options = _mapped(_on_meta, args), {name: _mapped(_on_meta, value) for name, value in kwargs.items()}
    if func is torch.ops.aten.nonzero.default:
        outcome: Any = torch.empty(operands[0].numel(), operands[0].dim(), dtype=torch.int64, device=_META)
    else:
        if "device" in {entry.name for entry in func._schema.arguments} and not any(
            isinstance(operand, Tensor) for operand in operands
        ):
            options["device"] = _META
        outcome = func(*operands, **options)
    is_single = isinstance(outcome, Tensor)
    if not is_single and not isinstance(outcome, tuple | list):
        return _Rule(None, is_single, outcome)
    sources = {
        operands[place].untyped_storage()._cdata: place
        for place, argument in enumerate(args)
        if isinstance(argument, SizedTensor)  # a real one is a constant of the code, such as the 0 of rows[:] = 0
    }
    made: list[_Made | None] = []
    for output in [outcome] if is_single else outcome:
        if output is None:
            made.append(None)
            continue
        storage = output.untyped_storage()
        look = (tuple(output.shape), output.stride(), output.dtype)
        made.append(_Made(*look, look, storage.nbytes(), sources.get(storage._cdata)))
    return _Rule(tuple(made), is_single, None)
