"""Rows of tokens in 8 bits: `features.dtype: int8`.

A row of D values is stored as D integers from −127 to 127 and, in 4 further bytes, its scale: the largest magnitude of
the row divided by 127, as float32. A value differs by at most half the scale from what was computed. Padding is zero in
all bytes, and is read as zero.
"""

from typing import Final

import torch
from torch import Tensor

SCALE_BYTES: Final = 4
_LARGEST: Final = 127


def stored_width(width: int, dtype: str) -> int:
    """Return the number of elements of a stored row.

    Args:
        width: The number of its values, D.
        dtype: The storage type; only rows of `int8` have a scale.
    """
    return width + SCALE_BYTES if dtype == "int8" else width


def to_stored(values: Tensor, dtype: str) -> Tensor:
    """Convert values to a storage type: (…, D) → (…, D), or (…, D + 4) for `int8`.

    Args:
        values: The values, of a floating-point dtype; integers for a storage type of integers other than `int8`.
        dtype: The storage type.
    """
    if dtype != "int8":
        return values.to(getattr(torch, dtype))
    values = values.float()
    scale = values.abs().amax(dim=-1, keepdim=True) / _LARGEST  # (…, 1)
    # A row of zeros has the scale 0, and is divided by something else.
    integers = torch.round(values / torch.where(scale > 0, scale, 1.0)).to(torch.int8)
    return torch.cat([integers, scale.view(torch.int8)], dim=-1)


def from_stored(rows: Tensor) -> Tensor:
    """Convert stored rows to values: of int8 rows (…, D + 4) to float16 (…, D); others are returned as they are.

    Args:
        rows: Rows as `to_stored` returns them.
    """
    if rows.dtype != torch.int8:
        return rows
    scale = rows[..., -SCALE_BYTES:].contiguous().view(torch.float32)
    values = torch.empty((*rows.shape[:-1], rows.shape[-1] - SCALE_BYTES), dtype=torch.float16)
    # Products in float32 are rounded one by one, without a second copy of all of them.
    return torch.mul(rows[..., :-SCALE_BYTES], scale, out=values)


def read_dtype(dtype: str) -> torch.dtype:
    """Return the dtype of the tokens that are read: rows of 8 bits are read as float16.

    Args:
        dtype: The storage type of a feature store.
    """
    return torch.float16 if dtype == "int8" else getattr(torch, dtype)
