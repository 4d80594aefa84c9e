"""Data rows of a batch without their padding.

Shapes: B samples, R rows of the longest, N packed rows, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

_BLOCK_ROWS = 64


@dataclass(frozen=True)
class PackedBatch:
    """Where the data rows of a batch lie: what is done row by row is done for real rows alone, not for padding.

    Args:
        batch_size: B.
        row_count: R.
        mask: (B, R), true where there is a row, padding behind; None where nothing is padded.
        index: Places of the real rows among the B · R, (N,), the last ones repeated to fill up; None where nothing is
            padded.
        real_count: How many of them come before the repeated ones.
    """

    batch_size: int
    row_count: int
    mask: Tensor | None
    index: Tensor | None
    real_count: int

    @classmethod
    def of(cls, rows: Tensor, mask: Tensor | None) -> "PackedBatch":
        """The layout of rows (B, R, D) with that mask."""
        size, row_count = rows.shape[:2]
        if mask is None:
            return cls(size, row_count, None, None, size * row_count)
        # Memory is predicted on fake masks for the worst case, in which every row is real.
        is_fake = isinstance(mask, FakeTensor)
        index = torch.arange(mask.numel()) if is_fake else mask.flatten().nonzero().squeeze(1)
        count = len(index)
        # In whole blocks: for every new number of rows oneDNN makes a program, which takes a millisecond and 0.6 MB.
        index = torch.cat([index, index[-1:].expand(-count % _BLOCK_ROWS)])
        return cls(size, row_count, mask, index, count)

    def pack(self, rows: Tensor) -> Tensor:
        """(B, R, D) → (N, D)."""
        flat = rows.flatten(0, 1)
        return flat if self.index is None else flat.index_select(0, self.index)

    def pack_gradient(self, gradient: Tensor) -> Tensor:
        """The gradient of packed rows (N, D) from that of `unpack`'s result, (B, R, D), which it may overwrite."""
        packed = self.pack(gradient)
        packed[self.real_count :] = 0  # nobody reads the repeated ones
        return packed

    def unpack(self, rows: Tensor) -> Tensor:
        """(N, D) → (B, R, D), zeros in the padding."""
        if self.index is not None:
            whole = rows.new_zeros(self.batch_size * self.row_count, rows.shape[1])
            rows = whole.index_copy(0, self.index[: self.real_count], rows[: self.real_count])
        return rows.view(self.batch_size, self.row_count, -1)

    def places(self, which: str, device: torch.device) -> Tensor:
        """Places of the `first` or `last` row of every sample among the N, (B,)."""
        if self.mask is None:
            starts = torch.arange(self.batch_size, device=device) * self.row_count
            return starts if which == "first" else starts + self.row_count - 1
        lengths = self.mask.sum(dim=1)
        stops = lengths.cumsum(0)
        return stops - lengths if which == "first" else stops - 1
