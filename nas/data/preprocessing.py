"""From pictures and texts to the tensors that the encoders read, by the encoders' own processor and tokenizer."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


class Preprocessor:
    """An image processor and a tokenizer, used the same way for features, training and prediction.

    Args:
        image_processor: Hugging Face image processor.
        tokenizer: Hugging Face tokenizer.
        max_text_tokens: Longer texts are cut to this many tokens, special tokens included.
    """

    def __init__(self, *, image_processor: Any, tokenizer: Any, max_text_tokens: int) -> None:
        self.image_processor = image_processor
        self.tokenizer = tokenizer
        self.max_text_tokens = max_text_tokens

    def pixel_values(self, images: Sequence[Image.Image]) -> Tensor:
        """RGB images → (B, 3, height, width), float32."""
        pixels: Tensor = self.image_processor(list(images), return_tensors="pt")["pixel_values"]
        return pixels

    def tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Texts → token ids (B, T), int64, padded to the longest, and a mask (B, T), true where there is a token."""
        return self.padded(self.token_ids(texts))

    def token_ids(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Texts → token ids of each, without padding."""
        encoded = self.tokenizer(list(texts), truncation=True, max_length=self.max_text_tokens)
        return [np.array(ids, dtype=np.int32) for ids in encoded["input_ids"]]

    def cut_count(self, texts: Sequence[str]) -> int:
        """How many of the texts are longer than `max_text_tokens`."""
        encoded = self.tokenizer(list(texts), truncation=True, max_length=self.max_text_tokens + 1)
        return sum(len(ids) > self.max_text_tokens for ids in encoded["input_ids"])

    def padded(self, token_ids: Sequence[NDArray[np.int32]]) -> tuple[Tensor, Tensor]:
        """Token ids of each text → what `tokens` returns; padding stands behind the tokens."""
        longest = max(len(ids) for ids in token_ids)
        # A tokenizer without a padding token can have any in its place: the mask hides it.
        padding = getattr(self.tokenizer, "pad_token_id", None) or 0
        rows = torch.full((len(token_ids), longest), padding, dtype=torch.int64)
        mask = torch.zeros(rows.shape, dtype=torch.bool)
        for row, ids in enumerate(token_ids):
            rows[row, : len(ids)] = torch.from_numpy(ids)
            mask[row, : len(ids)] = True
        return rows, mask

    def fingerprint(self) -> str:
        """Changes when the images' processing or the texts' tokenising does."""
        return f"{self.image_processor.to_json_string()} {_tokenizer_state(self.tokenizer)} {self.max_text_tokens}"


def _tokenizer_state(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return repr(sorted(tokenizer.get_vocab().items()))
    state = json.loads(backend.to_str())
    # Every call sets these two anew, and leaves them behind.
    return json.dumps({key: value for key, value in state.items() if key not in ("truncation", "padding")})
