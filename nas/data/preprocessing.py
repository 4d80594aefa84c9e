"""Convert images and texts into the input tensors of the encoders, with their own image processor and tokenizer."""

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from nas.common.boundary import reading, shown
from nas.common.errors import EncoderError

_SURROGATE = re.compile("[\ud800-\udfff]")


class Preprocessor:
    """An image processor and a tokenizer, applied in the same way for features, training and prediction.

    Args:
        image_processor: The Hugging Face image processor.
        tokenizer: The Hugging Face tokenizer.
        max_text_tokens: Number of tokens, including special ones, to which longer texts are truncated.
        image_source: The file or checkpoint of the image processor, for messages.
    """

    def __init__(
        self, *, image_processor: Any, tokenizer: Any, max_text_tokens: int, image_source: str = "the image processor"
    ) -> None:
        self.image_processor = image_processor
        self.tokenizer = tokenizer
        self.max_text_tokens = max_text_tokens
        self._image_source = image_source

    def pixel_values(self, images: Sequence[Image.Image]) -> Tensor:
        """Return the pixel values of RGB images, (B, 3, height, width), float32."""
        expected = "settings with which the image processor accepts every image"
        with reading(self._image_source, expected=expected, error=EncoderError, problem="cannot process images"):
            pixels: Tensor = self.image_processor(list(images), return_tensors="pt")["pixel_values"]
        return pixels

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return the token ids of texts, (B, T), int64, padded to the longest, and their mask, (B, T), bool."""
        return self.pad(self.token_ids(texts))

    def token_ids(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Return the token ids of each text, without padding."""
        return [np.array(ids, dtype=np.int32) for ids in self._encoded(texts, self.max_text_tokens)]

    def whole_token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, whatever its length, without padding."""
        return self._encoded(texts, None)

    def _encoded(self, texts: Sequence[str], max_tokens: int | None) -> list[list[int]]:
        with reading(
            f"{self.tokenizer.name_or_path}: tokenizer",
            expected="a complete tokenizer that accepts every text, as save_pretrained writes it",
            error=EncoderError,
            problem="cannot tokenize texts",
        ):
            encoded = self.tokenizer(_well_formed(texts), truncation=max_tokens is not None, max_length=max_tokens)
            return list(encoded["input_ids"])

    @property
    def adds_tokens(self) -> bool:
        """Whether every text, even an empty one, gets at least one token."""
        return int(self.tokenizer.num_special_tokens_to_add()) > 0

    def first_empty(self, token_ids: Sequence[NDArray[np.int32]]) -> int | None:
        """Return the index of the first text without tokens; None if each has one."""
        return next((index for index, ids in enumerate(token_ids) if len(ids) == 0), None)

    def empty_text(self, text: str) -> str:
        """Return what is wrong with a text that the tokenizer finds no token in, for a message."""
        return (
            f"{shown(text)} has no tokens; expected at least one from the tokenizer {self.tokenizer.name_or_path}, "
            "which adds none of its own; leave such samples out, or use an encoder whose tokenizer adds special tokens"
        )

    def truncated_count(self, texts: Sequence[str]) -> int:
        """Return the number of texts that are longer than `max_text_tokens`."""
        return sum(len(ids) > self.max_text_tokens for ids in self._encoded(texts, self.max_text_tokens + 1))

    def pad(self, token_ids: Sequence[NDArray[np.int32]]) -> tuple[Tensor, Tensor]:
        """Return token ids of texts as `tokenize` does, padded on the right.

        Args:
            token_ids: The token ids of each text.
        """
        longest = max(len(ids) for ids in token_ids)
        # Without a padding token any id will do: the mask hides it.
        padding = getattr(self.tokenizer, "pad_token_id", None) or 0
        rows = torch.full((len(token_ids), longest), padding, dtype=torch.int64)
        mask = torch.zeros(rows.shape, dtype=torch.bool)
        for row, ids in enumerate(token_ids):
            rows[row, : len(ids)] = torch.from_numpy(ids)
            mask[row, : len(ids)] = True
        return rows, mask

    def image_fingerprint(self) -> str:
        """Return a string that changes when the processing of images changes."""
        return str(self.image_processor.to_json_string())

    def text_fingerprint(self) -> str:
        """Return a string that changes when the processing of texts changes."""
        return f"{_tokenizer_state(self.tokenizer)} {self.max_text_tokens}"


def _well_formed(texts: Sequence[str]) -> list[str]:
    """Return texts with a replacement character for each byte that is not UTF-8, which tokenizers do not take."""
    return [_SURROGATE.sub("\ufffd", text) for text in texts]


def _tokenizer_state(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return repr(sorted(tokenizer.get_vocab().items()))
    state = json.loads(backend.to_str())
    # Every call of the tokenizer overwrites these two settings.
    return json.dumps({key: value for key, value in state.items() if key not in ("truncation", "padding")})
