"""The data tokens of a batch without their padding.

Shapes: B samples, S tokens of the longest sample, N packed tokens, D hidden size.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nas.models.encoders.base import last_tokens
from nas.models.encoders.tracing import have_values
from nas.models.fusion.token_places import TokenPlaces


@dataclass(frozen=True)
class PackedBatch:
    """The positions of the tokens of a batch among its padding: row-wise work on packed tokens skips the padding.

    Exact, because padding is never attended to, and all other operations treat rows separately.

    Args:
        batch_size: The number of samples B.
        token_count: The number of tokens S of the longest sample.
        mask: (B, S), true where there is a token, padding at the end; None where nothing is padded.
        index: The positions of the tokens among the B · S, (N,), the last one repeated to fill a block; None where
            nothing is padded.
        real_count: The number of positions before the repeated ones.
        keeps_padding: Whether the padding is packed, too.
    """

    batch_size: int
    token_count: int
    mask: Tensor | None
    index: Tensor | None
    real_count: int
    keeps_padding: bool = False

    @classmethod
    def of(cls, tokens: Tensor, mask: Tensor | None, places: TokenPlaces | None = None) -> "PackedBatch":
        """Return the layout of a batch.

        Args:
            tokens: The tokens, (B, S, D).
            mask: (B, S), true where there is a token; None where nothing is padded.
            places: The places of the tokens, if they are known.
        """
        size, token_count = tokens.shape[:2]
        if mask is None:
            return cls(size, token_count, None, None, size * token_count)
        # Without values, lengths are unknown, so all rows are kept; memory is predicted for this worst case.
        keeps_padding = not have_values(mask)
        if keeps_padding or places is None:
            places = TokenPlaces.filled(_all_places(mask) if keeps_padding else mask.flatten().nonzero().squeeze(1))
        return cls(size, token_count, mask, places.index, places.count, keeps_padding)

    def pack(self, tokens: Tensor) -> Tensor:
        """Remove the padding, (B, S, D) → (N, D)."""
        flat = tokens.flatten(0, 1)
        return flat if self.index is None else flat.index_select(0, self.index)

    def pack_gradient(self, gradient: Tensor) -> Tensor:
        """Return the gradient of packed tokens, (N, D), given that of `unpack`'s result (B, S, D), which may change."""
        packed = self.pack(gradient)
        packed[self.real_count :] = 0  # the repeated ones are never read
        return packed

    def unpack(self, tokens: Tensor) -> Tensor:
        """Restore the padding as zeros, (N, D) → (B, S, D)."""
        if self.index is not None:
            whole = tokens.new_zeros(self.batch_size * self.token_count, tokens.shape[1])
            tokens = whole.index_copy(0, self.index[: self.real_count], tokens[: self.real_count])
        return tokens.view(self.batch_size, self.token_count, -1)

    def positions(self, which: Literal["first", "last"], device: torch.device) -> Tensor:
        """Return the position of the first or last token of every sample among the N packed ones, (B,)."""
        if self.mask is None or self.keeps_padding:
            starts = torch.arange(self.batch_size, device=device) * self.token_count
            if which == "first":
                return starts
            return starts + (self.token_count - 1 if self.mask is None else last_tokens(self.mask))
        lengths = self.mask.sum(dim=1)
        stops = lengths.cumsum(0)
        return stops - lengths if which == "first" else stops - 1


def _all_places(mask: Tensor) -> Tensor:
    return torch.arange(mask.numel(), device=mask.device)
