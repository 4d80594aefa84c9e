"""The places of the tokens of a batch among its padding, found on the host: a GPU would have to be waited for."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_BLOCK_TOKENS = 64


@dataclass(frozen=True)
class TokenPlaces:
    """The places of N tokens among the B · S of a padded batch.

    Args:
        index: The places, (≥ N,), int64, the last one repeated to fill a block: oneDNN compiles a program for every new
            number of rows, which takes 1 ms and 0.6 MB.
        count: The number N of places before the repeated ones.
    """

    index: Tensor
    count: int

    @classmethod
    def of(cls, is_token: NDArray[np.bool_]) -> "TokenPlaces":
        """Return the places of the tokens of a batch.

        Args:
            is_token: (B, S), true where there is a token.
        """
        return cls.filled(torch.from_numpy(np.flatnonzero(is_token)))

    @classmethod
    def filled(cls, index: Tensor) -> "TokenPlaces":
        """Return places with the last one repeated to fill a block.

        Args:
            index: The places, (N,).
        """
        count = len(index)
        return cls(torch.cat([index, index[-1:].expand(-count % _BLOCK_TOKENS)]), count)
