"""Transformer layers that can be computed in parts.

PMF needs the keys and values of some tokens and the outputs of others, so a layer is not an opaque `layer(x)`. Keys and
values depend on their own token only, so they are computed once and shared by every reader.

Shapes: B samples, R tokens, S attended tokens, H heads, D hidden size, d = D / H.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from nas.models.encoders.frozen_ops import autocasted, frozen_linear


@dataclass(frozen=True)
class KeysValues:
    """Keys and values of some tokens, both of shape (B, H, R, d)."""

    keys: Tensor
    values: Tensor

    def expand(self, batch_size: int) -> "KeysValues":
        """Repeat tokens that all samples share (B = 1), without copying."""
        return KeysValues(self.keys.expand(batch_size, -1, -1, -1), self.values.expand(batch_size, -1, -1, -1))

    def rows(self, chosen: slice) -> "KeysValues":
        """Return the keys and values of a slice of the tokens, as views."""
        return KeysValues(self.keys[:, :, chosen], self.values[:, :, chosen])

    @staticmethod
    def concatenate(parts: Sequence["KeysValues"]) -> "KeysValues":
        """Concatenate along the tokens; empty parts are skipped."""
        present = [part for part in parts if part.keys.shape[2]]
        if len(present) == 1:
            return present[0]
        return KeysValues(
            torch.cat([part.keys for part in present], dim=2), torch.cat([part.values for part in present], dim=2)
        )


@dataclass(frozen=True)
class Projections:
    """The four projections of an attention block.

    Args:
        query: Linear(D → D) from tokens to queries.
        key: Linear(D → D) from tokens to keys.
        value: Linear(D → D) from tokens to values.
        output: Linear(D → D) from the attention output, heads concatenated, to the residual stream.
        num_heads: The number of heads H.
        scale: The factor of the scores, usually d ** −0.5.
    """

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    output: nn.Linear
    num_heads: int
    scale: float


@dataclass(frozen=True)
class Halves:
    """The two halves of a layer of transformers, for models that compute something between them.

    Both call the parts of the layer as they are now, with everything that was changed in them; module-level functions,
    so that an encoder can be pickled.

    Args:
        attend: Function from the layer, its input (B, R, D) and an additive bias that broadcasts to (B, H, R, R), or
            None, to the input plus the attention, (B, R, D), after the norm of a post-norm layer.
        feed_forward: Function from the layer and the result of `attend` to the layer's output, (B, R, D).
        feed_forward_parts: The names of the parts of the layer that `feed_forward` calls.
    """

    attend: Callable[[Any, Tensor, Tensor | None], Tensor]
    feed_forward: Callable[[Any, Tensor], Tensor]
    feed_forward_parts: tuple[str, ...]


class EncoderLayer(ABC):
    """One transformer layer, split into the parts that PMF needs separately.

    For any tokens x and additive bias, `attend(x, keys_values(x), bias)` equals the layer's own forward.

    Args:
        module: The Hugging Face layer that holds the weights.
        projections: The projections of its attention block.
        halves: Its halves; None if only `attend` and whole layers of transformers can be computed.
    """

    def __init__(self, module: nn.Module, projections: Projections, halves: Halves | None = None) -> None:
        self.module = module
        self.projections = projections
        self.halves = halves

    @abstractmethod
    def normalize(self, rows: Tensor) -> Tensor:
        """Return the input of the query, key and value projections, row by row: (…, D) → (…, D).

        Under autocast it is in its dtype, cast once for all of them.
        """

    @abstractmethod
    def add_attention(self, rows: Tensor, attended: Tensor) -> Tensor:
        """Apply the output projection and the residual, and the norm of a post-norm layer; row by row.

        Args:
            rows: Layer inputs of the tokens whose outputs are needed, (…, D).
            attended: Attention output of these tokens, heads concatenated, (…, D).
        """

    @abstractmethod
    def add_feed_forward(self, rows: Tensor) -> Tensor:
        """Apply the feed-forward block and its residual to the result of `add_attention`, (…, D)."""

    def accumulate(self, rows: Tensor, attended: Tensor) -> Tensor:
        """Apply everything after the attention except `emit`: `add_attention`, then `add_feed_forward`."""
        return self.add_feed_forward(self.add_attention(rows, attended))

    def emit(self, accumulated: Tensor) -> Tensor:
        """Return the layer's output, given the result of `accumulate`: the final norm of a post-norm layer."""
        return accumulated

    def complete(self, rows: Tensor, attended: Tensor) -> Tensor:
        """Apply everything after the attention: `accumulate`, then `emit`."""
        return self.emit(self.accumulate(rows, attended))

    def queries(self, normalized: Tensor) -> Tensor:
        """Return the queries of tokens already passed through `normalize`: (B, R, D) → (B, H, R, d)."""
        return split_heads(frozen_linear(normalized, self.projections.query), self.projections.num_heads)

    def keys_values_of(self, normalized: Tensor) -> KeysValues:
        """Return the keys and values of tokens (B, R, D) already passed through `normalize`."""
        heads = self.projections.num_heads
        return KeysValues(
            split_heads(frozen_linear(normalized, self.projections.key), heads),
            split_heads(frozen_linear(normalized, self.projections.value), heads),
        )

    def keys_values(self, rows: Tensor) -> KeysValues:
        """Return the keys and values of tokens (B, R, D); each depends on its own token only."""
        return self.keys_values_of(self.normalize(rows))

    def attend(self, rows: Tensor, context: KeysValues, bias: Tensor | None) -> Tensor:
        """Return the layer's output for tokens that attend to the given keys and values.

        Args:
            rows: Layer inputs of the tokens whose outputs are needed, (B, R, D).
            context: Keys and values of everything these tokens attend to, (B, H, S, d).
            bias: Additive attention bias that broadcasts to (B, H, R, S), or None.

        Returns:
            Output of attention, residuals, norms and feed-forward, (B, R, D).
        """
        queries = self.queries(self.normalize(rows))
        return self.complete(rows, merge_heads(attention(queries, context, bias, self.projections.scale)))


class PreNormLayer(EncoderLayer):
    """x + s₁ · attention(norm₁(x)), then x + s₂ · feed-forward(norm₂(x)).

    Args:
        module: The Hugging Face layer.
        projections: The projections of its attention block.
        norms: The norms before the attention and before the feed-forward.
        feed_forward: The feed-forward block; `FrozenFeedForward` in families with two projections and an activation.
        scales: The layer-scale modules that multiply by s₁ and s₂, or None. The modules are stored instead of their
            vectors because loading a checkpoint may replace the parameters.
        halves: The halves of the layer of transformers.
    """

    def __init__(
        self,
        module: nn.Module,
        projections: Projections,
        *,
        norms: tuple[nn.Module, nn.Module],
        feed_forward: Callable[[Tensor], Tensor],
        scales: tuple[nn.Module, nn.Module] | None = None,
        halves: Halves | None = None,
    ) -> None:
        super().__init__(module, projections, halves)
        self.norms, self.feed_forward, self.scales = norms, feed_forward, scales

    def normalize(self, rows: Tensor) -> Tensor:
        return autocasted(self.norms[0](rows))

    def add_attention(self, rows: Tensor, attended: Tensor) -> Tensor:
        change = frozen_linear(attended, self.projections.output)
        return rows + (change if self.scales is None else self.scales[0](change))

    def add_feed_forward(self, rows: Tensor) -> Tensor:
        change = self.feed_forward(self.norms[1](rows))
        output: Tensor = rows + (change if self.scales is None else self.scales[1](change))
        return output


class PostNormLayer(EncoderLayer):
    """norm₁(x + attention(x)), then norm₂(x + feed-forward(x)).

    Args:
        module: The Hugging Face layer.
        projections: The projections of its attention block.
        norms: The norms after the attention and after the feed-forward.
        feed_forward: The feed-forward block; `FrozenFeedForward` in families with two projections and an activation.
        halves: The halves of the layer of transformers.
    """

    def __init__(
        self,
        module: nn.Module,
        projections: Projections,
        *,
        norms: tuple[nn.Module, nn.Module],
        feed_forward: Callable[[Tensor], Tensor],
        halves: Halves | None = None,
    ) -> None:
        super().__init__(module, projections, halves)
        self.norms, self.feed_forward = norms, feed_forward

    def normalize(self, rows: Tensor) -> Tensor:
        return autocasted(rows)

    def add_attention(self, rows: Tensor, attended: Tensor) -> Tensor:
        normed: Tensor = self.norms[0](rows + frozen_linear(attended, self.projections.output))
        return normed

    def add_feed_forward(self, rows: Tensor) -> Tensor:
        return rows + self.feed_forward(rows)

    def emit(self, accumulated: Tensor) -> Tensor:
        output: Tensor = self.norms[1](accumulated)
        return output


def split_heads(rows: Tensor, num_heads: int) -> Tensor:
    """Reshape (B, R, D) → (B, H, R, d)."""
    batch_size, row_count, hidden_size = rows.shape
    return rows.view(batch_size, row_count, num_heads, hidden_size // num_heads).transpose(1, 2)


def merge_heads(rows: Tensor) -> Tensor:
    """Reshape (B, H, R, d) → (B, R, D)."""
    return rows.transpose(1, 2).flatten(2)


def attention(queries: Tensor, context: KeysValues, bias: Tensor | None, scale: float) -> Tensor:
    """Return the scaled dot-product attention of queries (B, H, R, d), in the same shape."""
    return scaled_dot_product_attention(queries, context.keys, context.values, attn_mask=bias, scale=scale)
