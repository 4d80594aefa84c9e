"""Traces of operations on tensors without data."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nas.memory.tracing import DatalessTensor, ShapeTracer, Trace


def traced(function: Callable[..., object], *arguments: Tensor) -> Trace:
    tracer = ShapeTracer()
    with tracer:
        operands = [torch.empty(argument.shape, dtype=argument.dtype) for argument in arguments]
        tracer.start()
        function(*operands)
        return tracer.stop()


def test_allocations_and_releases_are_recorded_in_order() -> None:
    def step() -> None:
        first = torch.ones(1000)
        view = first[:10]
        del first
        second = torch.zeros(3, dtype=torch.int64)
        del view  # kept the first storage alive
        del second

    trace = traced(step)
    assert trace.events.tolist() == [1, 2, -1, -2]
    assert trace.sizes.tolist() == [4000, 24]
    assert trace.peak_bytes == 4024
    assert replace(trace, block_bytes=512).peak_bytes == 8 * 512 + 512


def test_existing_storages_are_not_recorded() -> None:
    assert traced(lambda rows: rows.add_(1), torch.ones(8)).events.tolist() == []


def test_data_dependent_sizes_are_the_largest_possible() -> None:
    trace = traced(lambda mask: mask.nonzero(), torch.zeros(2, 3, dtype=torch.bool))
    assert trace.sizes.tolist() == [6 * 2 * 8]


def test_shapes_strides_and_dtypes_equal_those_of_real_tensors() -> None:
    def outputs() -> list[Tensor]:
        rows = torch.ones(4, 3, 5, dtype=torch.float16)
        return [
            rows.transpose(0, 2),
            rows.transpose(0, 1).reshape(12, 5),
            rows.float() @ torch.ones(5, 2),
            rows.expand(2, 4, 3, 5)[:, 1:3],
            rows[:0],
            *rows.split(2),
            rows.sum(dim=1, keepdim=True),
            torch.cat([rows, rows], dim=2),
            rows.view(12, 5).t() * 2,
        ]

    with ShapeTracer():
        traced_outputs = outputs()
    for output, real in zip(traced_outputs, outputs(), strict=True):
        assert isinstance(output, DatalessTensor)
        assert (output.shape, output.stride(), output.dtype) == (real.shape, real.stride(), real.dtype)


def test_backward_pass_runs_without_data() -> None:
    def step() -> None:
        weight = torch.ones(7, 5, requires_grad=True)
        torch.autograd.backward((torch.ones(3, 7) @ weight).relu().sum())
        assert weight.grad is not None and weight.grad.shape == (7, 5)

    assert traced(step).peak_bytes > 2 * 7 * 5 * 4


def test_tensor_without_data_cannot_be_used_outside_the_trace() -> None:
    with ShapeTracer():
        rows = torch.ones(3)
    with pytest.raises(RuntimeError, match="outside of the trace"):
        rows + 1
