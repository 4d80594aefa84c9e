"""What every frozen encoder offers: a stack of layers that can be computed in parts.

Notation: B samples, R rows, S rows that are seen, H heads, D hidden width, d = D / H.

PMF needs keys and values of some rows, and outputs for others, so a layer is not an opaque `layer(x)`. Its keys and
values depend on each row alone, which is why they can be computed once and shared by every reader.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedConfig, PreTrainedModel

from nas.models.encoders.frozen_ops import frozen_linear


@dataclass(frozen=True)
class KeysValues:
    """Keys and values of some rows, both of shape (B, H, R, d)."""

    keys: Tensor
    values: Tensor

    def expand(self, batch_size: int) -> "KeysValues":
        """Repeat rows that all samples share (B = 1), without copying."""
        return KeysValues(self.keys.expand(batch_size, -1, -1, -1), self.values.expand(batch_size, -1, -1, -1))

    def rows(self, chosen: slice) -> "KeysValues":
        """Those of some rows, as views."""
        return KeysValues(self.keys[:, :, chosen], self.values[:, :, chosen])

    @staticmethod
    def concatenate(parts: Sequence["KeysValues"]) -> "KeysValues":
        """Join along the rows, leaving out parts without rows."""
        present = [part for part in parts if part.keys.shape[2]]
        if len(present) == 1:
            return present[0]
        return KeysValues(
            torch.cat([part.keys for part in present], dim=2), torch.cat([part.values for part in present], dim=2)
        )


@dataclass(frozen=True)
class Projections:
    """The four frozen projections of an attention block.

    Args:
        query: Linear(D → D), and so on.
        key: Rows to keys.
        value: Rows to values.
        output: Attended rows, heads side by side, to the residual stream.
        num_heads: H.
        scale: Of the scores, usually d ** −0.5.
    """

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    output: nn.Linear
    num_heads: int
    scale: float


class EncoderLayer(ABC):
    """One transformer layer, in the parts that PMF needs one by one.

    For any rows x and additive bias, `attend(x, keys_values(x), bias)` is the layer's own forward.

    Args:
        module: The Hugging Face layer that holds the weights.
        projections: Of its attention.
    """

    def __init__(self, module: nn.Module, projections: Projections) -> None:
        self.module = module
        self.projections = projections

    @abstractmethod
    def normalize(self, rows: Tensor) -> Tensor:
        """What the query, key and value projections read, row by row: (…, D) → (…, D)."""

    @abstractmethod
    def accumulate(self, rows: Tensor, attended: Tensor) -> Tensor:
        """What is behind the attention, row by row, but for `emit`: output projection, residuals, feed-forward.

        Args:
            rows: Inputs of the rows whose outputs are wanted, (…, D).
            attended: What they have attended to, heads side by side, (…, D).
        """

    def emit(self, accumulated: Tensor) -> Tensor:
        """The layer's output from what `accumulate` returned, row by row: a norm, where the layer ends with one."""
        return accumulated

    def complete(self, rows: Tensor, attended: Tensor) -> Tensor:
        """Everything behind the attention: `accumulate`, then `emit`."""
        return self.emit(self.accumulate(rows, attended))

    def queries(self, normalized: Tensor) -> Tensor:
        """Queries of rows that `normalize` has seen: (B, R, D) → (B, H, R, d)."""
        return split_heads(frozen_linear(normalized, self.projections.query), self.projections.num_heads)

    def keys_values_of(self, normalized: Tensor) -> KeysValues:
        """Keys and values of rows (B, R, D) that `normalize` has seen."""
        heads = self.projections.num_heads
        return KeysValues(
            split_heads(frozen_linear(normalized, self.projections.key), heads),
            split_heads(frozen_linear(normalized, self.projections.value), heads),
        )

    def keys_values(self, rows: Tensor) -> KeysValues:
        """Keys and values of rows (B, R, D); each depends on its own row alone."""
        return self.keys_values_of(self.normalize(rows))

    def attend(self, rows: Tensor, context: KeysValues, bias: Tensor | None) -> Tensor:
        """Output of the layer for rows (B, R, D) that see the given keys and values.

        Args:
            rows: Inputs of the rows whose outputs are wanted, (B, R, D).
            context: Keys and values of everything those rows see, (B, H, S, d).
            bias: Additive attention bias that broadcasts to (B, H, R, S), or None.

        Returns:
            (B, R, D): attention, residuals, norms and feed-forward of those rows.
        """
        queries = self.queries(self.normalize(rows))
        return self.complete(rows, merge_heads(attention(queries, context, bias, self.projections.scale)))


class PreNormLayer(EncoderLayer):
    """x + s₁ · attention(norm₁(x)), then x + s₂ · feed-forward(norm₂(x)); s₁ and s₂ where the family has layer scale.

    Args:
        module: The Hugging Face layer.
        projections: Of its attention.
        norms: Before the attention, before the feed-forward.
        feed_forward: `FrozenFeedForward` where the family has two projections around an activation.
        scales: Modules that multiply by s₁ and s₂. The vectors themselves are not held here, since loading a model may
            put other parameters in their place.
    """

    def __init__(
        self,
        module: nn.Module,
        projections: Projections,
        *,
        norms: tuple[nn.Module, nn.Module],
        feed_forward: Callable[[Tensor], Tensor],
        scales: tuple[nn.Module, nn.Module] | None = None,
    ) -> None:
        super().__init__(module, projections)
        self.norms, self.feed_forward, self.scales = norms, feed_forward, scales

    def normalize(self, rows: Tensor) -> Tensor:
        normalized: Tensor = self.norms[0](rows)
        return normalized

    def accumulate(self, rows: Tensor, attended: Tensor) -> Tensor:
        change = frozen_linear(attended, self.projections.output)
        rows = rows + (change if self.scales is None else self.scales[0](change))
        change = self.feed_forward(self.norms[1](rows))
        output: Tensor = rows + (change if self.scales is None else self.scales[1](change))
        return output


class PostNormLayer(EncoderLayer):
    """norm₁(x + attention(x)), then norm₂(x + feed-forward(x)).

    Args:
        module: The Hugging Face layer.
        projections: Of its attention.
        norms: After the attention, after the feed-forward.
        feed_forward: `FrozenFeedForward` where the family has two projections around an activation.
    """

    def __init__(
        self,
        module: nn.Module,
        projections: Projections,
        *,
        norms: tuple[nn.Module, nn.Module],
        feed_forward: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__(module, projections)
        self.norms, self.feed_forward = norms, feed_forward

    def normalize(self, rows: Tensor) -> Tensor:
        return rows

    def accumulate(self, rows: Tensor, attended: Tensor) -> Tensor:
        rows = self.norms[0](rows + frozen_linear(attended, self.projections.output))
        return rows + self.feed_forward(rows)

    def emit(self, accumulated: Tensor) -> Tensor:
        output: Tensor = self.norms[1](accumulated)
        return output


def split_heads(rows: Tensor, num_heads: int) -> Tensor:
    """(B, R, D) → (B, H, R, d)."""
    batch_size, row_count, width = rows.shape
    return rows.view(batch_size, row_count, num_heads, width // num_heads).transpose(1, 2)


def merge_heads(rows: Tensor) -> Tensor:
    """(B, H, R, d) → (B, R, D)."""
    return rows.transpose(1, 2).flatten(2)


def attention(queries: Tensor, context: KeysValues, bias: Tensor | None, scale: float) -> Tensor:
    """Scaled dot-product attention of queries (B, H, R, d), of the same shape."""
    return scaled_dot_product_attention(queries, context.keys, context.values, attn_mask=bias, scale=scale)


class Encoder(nn.Module, ABC):
    """A pretrained transformer with every weight frozen and dropout off; `trainable_copy` has one to be trained.

    Args:
        model: The Hugging Face model that holds the weights; `state_dict` keys are its own, under `model.`.
        layers: Views of its layers, first to last.
        embedding: The modules that only `embed` and `as_embeddings` use.
    """

    readout: ClassVar[Literal["first", "last", "all"]] = "first"
    """Rows that the head reads: the first (CLS), the last token of each sample, or all of them."""

    def __init__(self, model: PreTrainedModel, layers: Sequence[EncoderLayer], embedding: Sequence[nn.Module]) -> None:
        super().__init__()
        self.model: Any = model
        # Tuples keep these views of the model out of its state.
        self._layers, self._embedding = tuple(layers), tuple(embedding)
        self.model.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Encoder":
        """Stay in evaluation mode: stored features and shared keys and values are exact only without dropout."""
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
    def embedding(self) -> Sequence[nn.Module]:
        """The modules that only `embed` and `as_embeddings` use."""
        return self._embedding

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def hidden_size(self) -> int:
        """Hidden width D."""
        return int(self.config.hidden_size)

    @property
    def max_text_tokens(self) -> int:
        """Tokens of the longest text that a text encoder has positions for, special tokens included."""
        return int(self.config.max_position_embeddings)

    @abstractmethod
    def embed(self, inputs: Tensor) -> Tensor:
        """Input of the first layer: pixel values (B, 3, height, width) or token ids (B, R) → (B, R, D)."""

    def as_embeddings(self, rows: Tensor) -> Tensor:
        """What a text encoder ends its embeddings with, row by row, for rows of another source that stand beside them:
        their LayerNorm, where it has one of its own width; (B, R, D) → (B, R, D)."""
        norm = getattr(self.embedding[0], "LayerNorm", None)
        if norm is None or norm.normalized_shape != (self.hidden_size,):
            return rows
        normed: Tensor = norm(rows)
        return normed

    @abstractmethod
    def finish(self, rows: Tensor) -> Tensor:
        """What follows the last layer, row by row: (B, R, D) → (B, R, D)."""

    def pool(self, rows: Tensor) -> Tensor:
        """What the classifier reads, from the finished readout rows: (B, R', D) → (B, D)."""
        return rows[:, 0]

    def drop_unread(self, *, pooling: bool) -> None:
        """Leave out weights that nothing here reads, for a model that trains what it has.

        Args:
            pooling: Also those that only `pool` reads.
        """
        del pooling
        for module in self.model.modules():
            token = getattr(module, "mask_token", None)
            if token is not None:
                del module.mask_token  # only pretraining hides patches
                # DINOv2 with registers initialises it without asking whether it is there.
                module.register_buffer("mask_token", torch.zeros_like(token), persistent=False)

    def data_bias(self, mask: Tensor | None, row_count: int, dtype: torch.dtype) -> Tensor | None:
        """Additive bias between the encoder's own rows: padding, and what else the family has (causal, relative).

        Args:
            mask: (B, R), true where there is a token; None where nothing is padded.
            row_count: R.
            dtype: Of the bias.

        Returns:
            A tensor that broadcasts to (B, H, R, R), or None where every row sees every row.
        """
        del row_count
        return None if mask is None else padding_bias(mask, dtype)

    def readout_rows(self, rows: Tensor, mask: Tensor | None) -> Tensor:
        """The rows that the head reads: (B, R, D) → (B, R', D).

        Args:
            rows: All rows.
            mask: (B, R), true where there is a token, padding behind the tokens; None where nothing is padded.
        """
        if self.readout == "all":
            return rows
        if self.readout == "first":
            return rows[:, :1]
        if mask is None:
            return rows[:, -1:]
        last = mask.sum(dim=1, keepdim=True) - 1  # (B, 1)
        return rows.gather(1, last[:, :, None].expand(-1, -1, rows.shape[2]))

    def readout_bias(self, bias: Tensor | None, mask: Tensor | None) -> Tensor | None:
        """Rows of a `data_bias` that belong to the readout rows: broadcasts to (B, H, R', R)."""
        if bias is None or bias.shape[2] == 1 or self.readout == "all":
            return bias
        if self.readout == "first":
            return bias[:, :, :1]
        if mask is None:
            return bias[:, :, -1:]
        last = (mask.sum(dim=1) - 1)[:, None, None, None]  # (B, 1, 1, 1)
        bias = bias.expand(len(mask), -1, -1, -1)
        return bias.gather(2, last.expand(-1, bias.shape[1], 1, bias.shape[3]))

    def run(self, rows: Tensor, bias: Tensor | None, *, start: int, stop: int) -> Tensor:
        """Rows (B, R, D) through the layers start, …, stop − 1 of this encoder alone."""
        for layer in self.layers[start:stop]:
            normalized = layer.normalize(rows)
            context = layer.keys_values_of(normalized)
            attended = attention(layer.queries(normalized), context, bias, layer.projections.scale)
            rows = layer.complete(rows, merge_heads(attended))
        return rows


def padding_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive bias that hides padding: mask (B, R), true where there is a token → (B, 1, 1, R) of 0 and −inf."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, float("-inf"))[:, None, None, :]
