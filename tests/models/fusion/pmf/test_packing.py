"""Packing and unpacking of the tokens of a batch."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nas.models.fusion.pmf.packing import PackedBatch

WIDTH = 3
LENGTHS = st.lists(st.integers(1, 7), min_size=1, max_size=6)


def mask_of(lengths: list[int]) -> Tensor:
    return torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]


def rows_of(mask: Tensor) -> Tensor:
    """Return rows, padding included, whose numbers are all different and not zero."""
    return torch.arange(1, mask.numel() * WIDTH + 1, dtype=torch.float64).view(*mask.shape, WIDTH)


@given(LENGTHS)
def test_packing_keeps_the_order_of_the_tokens(lengths: list[int]) -> None:
    mask = mask_of(lengths)
    rows = rows_of(mask)
    expected = torch.cat([sample[:length] for sample, length in zip(rows, lengths, strict=True)])
    packed = PackedBatch.of(rows, mask).pack(rows)
    assert torch.equal(packed[: len(expected)], expected)
    assert len(packed) % 64 == 0 and len(packed) - len(expected) < 64  # in blocks
    assert bool((packed[len(expected) :] == expected[-1]).all())


@given(LENGTHS)
def test_unpacking_restores_tokens_and_zeroes_padding(lengths: list[int]) -> None:
    mask = mask_of(lengths)
    rows = rows_of(mask)
    layout = PackedBatch.of(rows, mask)
    unpacked = layout.unpack(layout.pack(rows))
    assert torch.equal(unpacked, rows * mask[:, :, None])
    assert torch.equal(layout.pack(unpacked), layout.pack(rows))


@given(LENGTHS)
def test_only_tokens_get_gradients(lengths: list[int]) -> None:
    mask = mask_of(lengths)
    rows = rows_of(mask).requires_grad_()
    layout = PackedBatch.of(rows, mask)
    packed = layout.pack(rows)
    upstream = torch.rand_like(packed) + 1
    upstream[sum(lengths) :] = 0
    (gradient,) = torch.autograd.grad(packed, rows, upstream)
    assert torch.equal(gradient, layout.unpack(upstream))

    packed = packed.detach().requires_grad_()
    upstream = torch.rand_like(rows) + 1
    (gradient,) = torch.autograd.grad(layout.unpack(packed), packed, upstream)
    assert torch.equal(gradient[: sum(lengths)], upstream[mask]) and not gradient[sum(lengths) :].any()
    assert torch.equal(layout.pack_gradient(upstream), gradient)


@given(LENGTHS)
def test_positions_are_those_of_the_first_and_last_token_of_every_sample(lengths: list[int]) -> None:
    mask = mask_of(lengths)
    rows = rows_of(mask)
    layout = PackedBatch.of(rows, mask)
    packed = layout.pack(rows)
    samples = torch.arange(len(lengths))
    assert torch.equal(packed[layout.positions("first", rows.device)], rows[:, 0])
    assert torch.equal(packed[layout.positions("last", rows.device)], rows[samples, torch.tensor(lengths) - 1])


def test_without_a_mask_nothing_is_removed() -> None:
    rows = rows_of(mask_of([4, 4, 4]))
    layout = PackedBatch.of(rows, None)
    packed = layout.pack(rows)
    assert torch.equal(packed, rows.view(12, WIDTH)) and torch.equal(layout.unpack(packed), rows)
    assert torch.equal(packed[layout.positions("first", rows.device)], rows[:, 0])
    assert torch.equal(packed[layout.positions("last", rows.device)], rows[:, -1])


def test_without_a_mask_nothing_is_copied() -> None:
    rows = rows_of(mask_of([4, 4]))
    layout = PackedBatch.of(rows, None)
    packed = layout.pack(rows)
    assert packed.data_ptr() == rows.data_ptr() and layout.unpack(packed).data_ptr() == rows.data_ptr()
