"""Rows of tokens in 8 bits: a closed form, bounds of the error, and what a store of them reads."""

import numpy as np
import pytest
import torch

from nas.data.features.eight_bits import from_stored, read_dtype, stored_width, to_stored


def test_row_is_its_rounded_multiples_of_the_scale_and_the_scale() -> None:
    values = torch.tensor([[[127.0, -63.5, 0.4, 0.6], [0.0, 0.0, 0.0, 0.0]], [[-2.0, 1.0, 0.0, 2.0], [1e-30, 0, 0, 0]]])
    stored = to_stored(values, "int8")
    assert stored.dtype == torch.int8 and stored.shape == (2, 2, stored_width(4, "int8"))
    assert stored[0, 0, :4].tolist() == [127, -64, 0, 1]
    assert stored[1, 0, :4].tolist() == [-127, 64, 0, 127]
    assert stored[0, 1].tolist() == [0] * 8  # as padding is
    scales = stored[..., 4:].contiguous().view(torch.float32).squeeze(-1)
    assert torch.equal(scales, torch.tensor([[1.0, 0.0], [2 / 127, 1e-30 / 127]]))
    read = from_stored(stored)
    assert read.dtype == torch.float16 == read_dtype("int8")
    assert torch.equal(read[0], torch.tensor([[127.0, -64, 0, 1], [0, 0, 0, 0]]).half())


def test_error_is_half_a_step_of_each_row_and_the_rounding_of_float16() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(50, 7, 32, generator=generator) * torch.logspace(-3, 3, 50)[:, None, None]
    read = from_stored(to_stored(rows, "int8")).double()
    steps = rows.double().abs().amax(dim=-1, keepdim=True) / 127
    assert torch.all((read - rows.double()).abs() <= steps * (0.5 + 127 * 2.0**-11))
    assert torch.any((read - rows.double()).abs() > steps * 0.45)  # the bound is reached


def test_half_precision_tokens_are_quantised_like_their_float32_values() -> None:
    rows = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(1)).half()
    assert torch.equal(to_stored(rows, "int8"), to_stored(rows.float(), "int8"))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_other_storage_types_are_stored_and_read_as_they_are(dtype: str) -> None:
    rows = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(2))
    stored = to_stored(rows, dtype)
    assert stored.dtype == read_dtype(dtype) and torch.equal(stored, rows.to(stored.dtype))
    assert from_stored(stored) is stored and stored_width(4, dtype) == 4


def test_bytes_of_a_stored_row_survive_a_file() -> None:
    rows = torch.randn(4, 6, generator=torch.Generator().manual_seed(3))
    stored = to_stored(rows, "int8")
    copied = np.frombuffer(stored.numpy().tobytes(), dtype=np.int8).reshape(stored.shape)
    assert torch.equal(from_stored(torch.from_numpy(copied.copy())), from_stored(stored))
