"""What every frozen encoder offers: a stack of layers with two primitives each.

Notation: B samples, R rows, H heads, D hidden width, d = D / H.

PMF needs keys and values of some rows, and outputs for others, so a layer is not an opaque `layer(x)`. Its keys and
values depend on each row alone, which is why they can be computed once and shared by every reader.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class KeysValues:
    """Keys and values of some rows, both of shape (B, H, R, d)."""

    keys: Tensor
    values: Tensor

    def expand(self, batch_size: int) -> "KeysValues":
        """Repeat rows that all samples share (B = 1), without copying."""
        return KeysValues(self.keys.expand(batch_size, -1, -1, -1), self.values.expand(batch_size, -1, -1, -1))

    @staticmethod
    def concatenate(parts: Sequence["KeysValues"]) -> "KeysValues":
        """Join along the rows, leaving out parts without rows."""
        present = [part for part in parts if part.keys.shape[2]]
        if len(present) == 1:
            return present[0]
        return KeysValues(
            torch.cat([part.keys for part in present], dim=2), torch.cat([part.values for part in present], dim=2)
        )


class EncoderLayer(ABC):
    """One transformer layer, split so that keys and values can be shared and rows left out.

    For any rows x and additive bias, `attend(x, *keys_values(x), bias)` is the layer's own forward.
    """

    @abstractmethod
    def keys_values(self, rows: Tensor) -> KeysValues:
        """Keys and values of rows (B, R, D); each depends on its own row alone."""

    @abstractmethod
    def attend(self, rows: Tensor, context: KeysValues, bias: Tensor | None) -> Tensor:
        """Output of the layer for rows (B, R, D) that see the given keys and values.

        Args:
            rows: Inputs of the rows whose outputs are wanted, (B, R, D).
            context: Keys and values of everything those rows see, (B, H, S, d).
            bias: Additive attention bias that broadcasts to (B, H, R, S), or None.

        Returns:
            (B, R, D): attention, residuals, norms and feed-forward of those rows.
        """


def split_heads(rows: Tensor, head_count: int) -> Tensor:
    """(B, R, D) → (B, H, R, d)."""
    batch_size, row_count, width = rows.shape
    return rows.view(batch_size, row_count, head_count, width // head_count).transpose(1, 2)


def attention(queries: Tensor, context: KeysValues, bias: Tensor | None, scale: float) -> Tensor:
    """Scaled dot-product attention with heads merged: (B, H, R, d) → (B, R, D)."""
    attended = scaled_dot_product_attention(queries, context.keys, context.values, attn_mask=bias, scale=scale)
    return attended.transpose(1, 2).flatten(2)


class FrozenEncoder(nn.Module, ABC):
    """A pretrained transformer with every weight frozen and dropout off.

    Args:
        model: The Hugging Face model that holds the weights; `state_dict` keys are its own, under `model.`.
        layers: Views of its layers, first to last.
    """

    def __init__(self, model: PreTrainedModel, layers: Sequence[EncoderLayer]) -> None:
        super().__init__()
        self.model: Any = model
        self._layers = tuple(layers)  # a tuple keeps these views of the model out of its state
        self.model.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "FrozenEncoder":
        """Stay in evaluation mode: cached features and shared keys and values are exact only without dropout."""
        del mode
        return super().train(False)

    @property
    def config(self) -> PreTrainedConfig:
        """The checkpoint's configuration."""
        config: PreTrainedConfig = self.model.config
        return config

    @property
    def layers(self) -> Sequence[EncoderLayer]:
        """The layers, first to last."""
        return self._layers

    @property
    def depth(self) -> int:
        return len(self.layers)

    @property
    def width(self) -> int:
        """Hidden width D."""
        return int(self.config.hidden_size)

    @abstractmethod
    def embed(self, inputs: Tensor) -> Tensor:
        """Input of the first layer: pixel values (B, 3, height, width) or token ids (B, R) → (B, R, D)."""

    @abstractmethod
    def finish(self, rows: Tensor) -> Tensor:
        """What follows the last layer, row by row: (B, R, D) → (B, R, D)."""

    def readout_rows(self, rows: Tensor) -> Tensor:
        """The rows that the classification head reads, (B, R, D) → (B, 1, D); CLS unless the family says otherwise."""
        return rows[:, :1]

    def run(self, rows: Tensor, bias: Tensor | None, *, start: int, stop: int) -> Tensor:
        """Rows (B, R, D) through the layers start, …, stop − 1 of this encoder alone."""
        for layer in self.layers[start:stop]:
            rows = layer.attend(rows, layer.keys_values(rows), bias)
        return rows


def padding_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive bias that hides padding: mask (B, R), true where there is a token → (B, 1, 1, R) of 0 and −inf."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, float("-inf"))[:, None, None, :]
