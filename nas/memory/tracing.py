"""Run code on tensors with shapes but without data, and record every storage that it allocates and releases.

The code is that of the real step, so that the same tensors are alive at the same time. The outputs of an operation for
given operand shapes are determined once on the meta device of torch and cached, which is ten times as fast as the fake
tensors of torch and gives the same bytes.
"""

import contextlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nas.common.devices import CPU, counting_as, is_accelerator
from nas.memory.attention_kernels import AcceleratorAttention
from nas.memory.overheads import overheads_on

_META = torch.device("meta")


def peak_of(events: NDArray[np.int64], sizes: NDArray[np.int64], block_bytes: int) -> int:
    """Return the highest live bytes of allocations and releases; see `Trace`."""
    blocks = -(-sizes // block_bytes) * block_bytes
    changes = np.sign(events) * blocks[np.abs(events) - 1]
    return int(changes.cumsum().max(initial=0))


@dataclass(frozen=True)
class Trace:
    """The allocations and releases of a piece of code, in order.

    Args:
        events: The events: k + 1 for the allocation of storage k, −(k + 1) for its release.
        sizes: The bytes of every storage, in the order of allocation.
        block_bytes: The unit of the allocator, to which it rounds up the bytes of a storage.
    """

    events: NDArray[np.int64]
    sizes: NDArray[np.int64]
    block_bytes: int = 1

    @property
    def peak_bytes(self) -> int:
        """The highest live bytes."""
        return peak_of(self.events, self.sizes, self.block_bytes)


class _Storage:
    """Records its allocation and release; shared by a tensor and its views, and released with the last of them."""

    __slots__ = ("_events", "_number")

    def __init__(self, size: int, recording: "_Recording | None") -> None:
        self._events: list[int] | None = None
        if recording is not None:
            recording.sizes.append(size)
            self._events, self._number = recording.events, len(recording.sizes)
            self._events.append(self._number)

    def __del__(self) -> None:
        if self._events is not None:
            self._events.append(-self._number)


@dataclass
class _Recording:
    """Events and sizes of a trace in progress; see `Trace`."""

    events: list[int]
    sizes: list[int]


class DatalessTensor(Tensor):
    """A tensor with the shape, stride and dtype of a CPU tensor, but without data."""

    traced_storage: _Storage
    layout_key: tuple[Any, ...]
    """Shape, stride and dtype, the key of cached rules."""

    @staticmethod
    def build(layout: "_OutputLayout", storage: _Storage) -> "DatalessTensor":
        """Build a tensor of a layout in a storage."""
        tensor: DatalessTensor = Tensor._make_wrapper_subclass(
            DatalessTensor, layout.shape, layout.stride, dtype=layout.dtype, device=CPU
        )
        tensor.layout_key, tensor.traced_storage = layout.key, storage
        return tensor

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise RuntimeError(f"{func}: called on a tensor without data outside of the trace")


@dataclass(frozen=True)
class _OutputLayout:
    """The layout of a tensor that an operation returns.

    Args:
        shape: The shape.
        stride: The stride, equal to that of a real tensor, since it decides which operations copy.
        dtype: The dtype.
        storage_bytes: The bytes of the storage.
        viewed_argument: The position of the argument that it is a view of; None if it is not a view.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    storage_bytes: int
    viewed_argument: int | None

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """The layout key of the tensor."""
        return self.shape, self.stride, self.dtype


@dataclass(frozen=True)
class _OperationRule:
    """The outputs of an operation for given operand layouts.

    Args:
        outputs: The layouts of the returned tensors, None for an omitted one, or numbers among them; None if the
            operation returns a constant.
        is_single: Whether the operation returns a single tensor rather than several.
        constant: The returned constant.
    """

    outputs: tuple[_OutputLayout | int | None, ...] | None
    is_single: bool
    constant: Any = None


class ShapeTracer(TorchDispatchMode):
    """Mode in which tensors have no data; records their storages between `start` and `stop`.

    Data-dependent sizes are the largest possible: a mask counts as all true.

    Args:
        device: The device whose operations are recorded; it need not be there.
    """

    def __init__(self, device: torch.device = CPU) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device = device
        self._as_device = contextlib.ExitStack()
        self._rules: dict[Any, _OperationRule] = {}
        self._mutated: dict[Any, tuple[tuple[int, str], ...]] = {}
        self._recording: _Recording | None = None

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return whether torch has to keep its compiler off the dispatch; nothing that is traced is ever compiled."""
        return False

    def start(self) -> None:
        """Start recording; existing storages and their releases are not recorded."""
        self._recording = _Recording([], [])

    def stop(self) -> Trace:
        """Stop recording; return the trace."""
        recording, self._recording = self._recording, None
        assert recording is not None, "start has been called"
        events, sizes = (np.array(values, dtype=np.int64) for values in (recording.events, recording.sizes))
        return Trace(events, sizes, overheads_on(self._device).block_bytes)

    def __enter__(self) -> Self:
        if is_accelerator(self._device):
            self._as_device.enter_context(counting_as(self._device))
            self._as_device.enter_context(AcceleratorAttention(self._device))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        self._as_device.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        mutated = self._mutated.get(func)
        if mutated is None:
            mutated = self._mutated[func] = _mutated_arguments(func)
        if mutated:  # an operation that writes into its arguments allocates nothing and returns these, if anything
            outputs = [args[position] if position < len(args) else kwargs[name] for position, name in mutated]
            return None if not func._schema.returns else outputs[0] if len(outputs) == 1 else tuple(outputs)
        key = (func, _operand_key(args), _operand_key(tuple(kwargs.items())) if kwargs else None)
        rule = self._rules.get(key)
        if rule is None:
            rule = self._rules[key] = _run_on_meta(func, args, kwargs)
        if rule.outputs is None:
            return rule.constant
        tensors: list[DatalessTensor | int | None] = []
        for layout in rule.outputs:
            if not isinstance(layout, _OutputLayout):
                tensors.append(layout)
                continue
            if layout.viewed_argument is None:
                storage = _Storage(layout.storage_bytes, self._recording)
            else:
                storage = args[layout.viewed_argument].traced_storage
            tensors.append(DatalessTensor.build(layout, storage))
        return tensors[0] if rule.is_single else tuple(tensors)


def _mutated_arguments(func: Any) -> tuple[tuple[int, str], ...]:
    """Return the position and name of every argument that an operation writes into."""
    entries = enumerate(func._schema.arguments)
    return tuple(
        (position, entry.name) for position, entry in entries if entry.alias_info and entry.alias_info.is_write
    )


def _operand_key(value: Any) -> Any:
    """Return a hashable key of everything that the outputs depend on; with types, since 1, 1.0 and True are equal."""
    kind = type(value)  # compared exactly: `isinstance` takes several times as long, and this runs for every operand
    if kind is DatalessTensor:
        return value.layout_key
    if kind is tuple or kind is list:
        return tuple([_operand_key(item) for item in value])
    if isinstance(value, Tensor):
        return tuple(value.shape), value.stride(), value.dtype
    return kind, value


def _on_meta(value: Any) -> Any:
    """Return a value with its tensors and devices replaced by those of the meta device."""
    if isinstance(value, tuple | list):
        return type(value)([_on_meta(item) for item in value])
    if isinstance(value, Tensor):
        return torch.empty_strided(tuple(value.shape), value.stride(), dtype=value.dtype, device=_META)
    return _META if isinstance(value, torch.device) else value


def _run_on_meta(func: Any, args: Any, kwargs: dict[str, Any]) -> _OperationRule:
    """Determine the rule of an operation that does not write into its arguments."""
    operands, options = _on_meta(args), {name: _on_meta(value) for name, value in kwargs.items()}
    if func is torch.ops.aten.nonzero.default:
        result: Any = torch.empty(operands[0].numel(), operands[0].dim(), dtype=torch.int64, device=_META)
    else:
        if "device" in {entry.name for entry in func._schema.arguments} and not any(
            isinstance(operand, Tensor) for operand in operands
        ):
            options["device"] = _META
        result = func(*operands, **options)
    is_single = isinstance(result, Tensor)
    if not is_single and not isinstance(result, tuple | list):
        return _OperationRule(None, is_single, result)
    positions = {
        operands[position].untyped_storage()._cdata: position
        for position, argument in enumerate(args)
        if isinstance(argument, DatalessTensor)  # a real tensor is a constant of the code, such as the 0 of rows[:] = 0
    }
    outputs: list[_OutputLayout | int | None] = []
    for output in [result] if is_single else result:
        if not isinstance(output, Tensor):
            outputs.append(output)
            continue
        storage = output.untyped_storage()
        layout = (tuple(output.shape), output.stride(), output.dtype)
        outputs.append(_OutputLayout(*layout, storage.nbytes(), positions.get(storage._cdata)))
    return _OperationRule(tuple(outputs), is_single)
