import pytest
import torch
from torch import Tensor

from nas.memory.tracing import ShapeTracer, SizedTensor, Trace


def rehearsed(function: object, *arguments: Tensor) -> Trace:
    rehearsal = ShapeTracer()
    with rehearsal:
        operands = [torch.empty(argument.shape, dtype=argument.dtype) for argument in arguments]
        rehearsal.start()
        function(*operands)  # type: ignore[operator]
        return rehearsal.stop()


def test_allocations_and_releases_are_noted_in_order() -> None:
    def step() -> None:
        first = torch.ones(1000)
        view = first[:10]
        del first
        second = torch.zeros(3, dtype=torch.int64)
        del view  # held the first one
        del second

    trace = rehearsed(step)
    assert trace.events.tolist() == [1, 2, -1, -2]
    assert trace.sizes.tolist() == [4000, 24]
    assert trace.live_bytes.tolist() == [4000, 4024, 24, 0]
    assert trace.peak_bytes == 4024


def test_what_was_there_before_is_not_counted() -> None:
    assert rehearsed(lambda rows: rows.add_(1), torch.ones(8)).events.tolist() == []


def test_sizes_that_depend_on_data_are_the_largest_possible() -> None:
    trace = rehearsed(lambda mask: mask.nonzero(), torch.zeros(2, 3, dtype=torch.bool))
    assert trace.sizes.tolist() == [6 * 2 * 8]


def test_shapes_strides_and_types_are_those_of_real_tensors() -> None:
    def outcomes() -> list[Tensor]:
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
        sized = outcomes()
    for made, real in zip(sized, outcomes(), strict=True):
        assert isinstance(made, SizedTensor)
        assert (made.shape, made.stride(), made.dtype) == (real.shape, real.stride(), real.dtype)


def test_gradients_flow_without_data() -> None:
    def step() -> None:
        weight = torch.ones(7, 5, requires_grad=True)
        torch.autograd.backward((torch.ones(3, 7) @ weight).relu().sum())
        assert weight.grad is not None and weight.grad.shape == (7, 5)

    assert rehearsed(step).peak_bytes > 2 * 7 * 5 * 4


def test_a_tensor_without_data_is_of_no_use_outside() -> None:
    with ShapeTracer():
        rows = torch.ones(3)
    with pytest.raises(RuntimeError, match="outside of its rehearsal"):
        rows + 1
