"""What masked language modelling has to know of a tokenizer."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class MaskVocabulary:
    """The token ids of a text encoder.

    Args:
        size: The number of token ids V.
        mask_id: The id of the mask token.
        special_ids: The ids of special tokens, which are neither masked nor put in place of others.
    """

    size: int
    mask_id: int
    special_ids: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Any) -> "MaskVocabulary | None":
        """Return the vocabulary of a tokenizer; None if it has no mask token.

        Args:
            tokenizer: The Hugging Face tokenizer.
        """
        mask_id = getattr(tokenizer, "mask_token_id", None)
        if mask_id is None:
            return None
        return cls(len(tokenizer), int(mask_id), tuple(sorted(map(int, tokenizer.all_special_ids))))

    def ordinary_ids(self) -> NDArray[np.int64]:
        """Return the ids of all tokens but the special ones, ascending, int64."""
        return np.setdiff1d(np.arange(self.size, dtype=np.int64), np.array(self.special_ids, dtype=np.int64))
