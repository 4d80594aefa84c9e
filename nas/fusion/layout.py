"""Data rows of a batch without their padding.

Shapes: B samples, R rows of the longest, N real rows in all, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


@dataclass(frozen=True)
class Layout:
    """Where the data rows of a batch lie: what is done row by row is done for real rows alone, not for padding.

    Args:
        batch_size: B.
        row_count: R.
        mask: (B, R), true where there is a row, padding behind; None where nothing is padded.
        index: Places of the real rows among the B · R, (N,); None where nothing is padded.
    """

    batch_size: int
    row_count: int
    mask: Tensor | None
    index: Tensor | None

    @classmethod
    def of(cls, rows: Tensor, mask: Tensor | None) -> "Layout":
        """The layout of rows (B, R, D) with that mask."""
        index = None
        if isinstance(mask, FakeTensor):
            index = torch.arange(mask.numel())  # memory is predicted for the worst case, in which every row is real
        elif mask is not None:
            index = mask.flatten().nonzero().squeeze(1)
        return cls(rows.shape[0], rows.shape[1], mask, index)

    def pack(self, rows: Tensor) -> Tensor:
        """(B, R, D) → (N, D)."""
        flat = rows.flatten(0, 1)
        return flat if self.index is None else flat.index_select(0, self.index)

    def unpack(self, rows: Tensor) -> Tensor:
        """(N, D) → (B, R, D), zeros in the padding."""
        if self.index is not None:
            whole = rows.new_zeros(self.batch_size * self.row_count, rows.shape[1])
            rows = whole.index_copy(0, self.index, rows)
        return rows.view(self.batch_size, self.row_count, -1)

    def places(self, which: str, device: torch.device) -> Tensor:
        """Places of the `first` or `last` row of every sample among the N, (B,)."""
        if self.mask is None:
            starts = torch.arange(self.batch_size, device=device) * self.row_count
            return starts if which == "first" else starts + self.row_count - 1
        lengths = self.mask.sum(dim=1)
        stops = lengths.cumsum(0)
        return stops - lengths if which == "first" else stops - 1
