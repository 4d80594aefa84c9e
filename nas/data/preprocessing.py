"""From pictures and texts to the tensors that the encoders read, by the encoders' own processor and tokenizer."""

from collections.abc import Sequence
from typing import Any

import torch
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
        encoded = self.tokenizer(
            list(texts), truncation=True, max_length=self.max_text_tokens, padding=True, return_tensors="pt"
        )
        return encoded["input_ids"], encoded["attention_mask"].to(torch.bool)

    def fingerprint(self) -> str:
        """Changes when the images' processing or the texts' tokenising does."""
        return f"{self.image_processor.to_json_string()} {_tokenizer_state(self.tokenizer)} {self.max_text_tokens}"


def _tokenizer_state(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return str(backend.to_str()) if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
